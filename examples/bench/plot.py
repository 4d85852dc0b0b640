#!/usr/bin/env python3
"""plot.py RESULT.json PICTURE: draws what bench kv-shift, rope-cache or edits printed with -o json ("-":
the standard input) as an .svg or a .png. Needs matplotlib."""
import json
import statistics
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

# Text stays text, and the same numbers give the same file.
plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "mica", "axes.grid": True, "grid.alpha": 0.3,
                     "lines.markersize": 4, "legend.fontsize": 9, "axes.titlesize": 11})
COLORS = {"f32": "C7", "f16": "C0", "bf16": "C9", "q8_0": "C2", "q5_1": "C8", "q5_0": "C1", "q4_1": "C4", "q4_0": "C3"}
# Styles of lines; those with a point at each value are the ones that change.
KEYS = {"rotated": "-", "relative": "--", "unrotated": ":"}


def values(rows, name):
    """The different values of a column, in the order they come in."""
    return list(dict.fromkeys(row[name] for row in rows))


def plain_ticks(ax, ticks):
    """These ticks on x, no small ones on y: each is a line of the file."""
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_locator(NullLocator())


def draw_error(ax, rows, rope):
    """The logits' error against moves of a whole conversation, the longest that there is."""
    rows = [r for r in rows if r["rope"] == rope and r["moved"] == r["tokens"]]
    tokens = max(values(rows, "tokens"))
    rows = [r for r in rows if r["tokens"] == tokens]
    for type_k in values(rows, "type_k"):
        for keys, style in KEYS.items():
            line = {r["moves"]: r["logits' error"] for r in rows if r["type_k"] == type_k and r["keys"] == keys}
            ax.plot(list(line), list(line.values()), style, marker="o" if keys == "rotated" else "", color=COLORS[type_k])
    ax.set(title=f"{tokens} tokens, RoPE {rope.replace(' x', ' ×')}", xlabel="moves of the whole conversation",
           ylabel="error of the logits, relative to F32 unmoved", xscale="symlog", yscale="log")
    plain_ticks(ax, values(rows, "moves"))


def draw_cost(ax, rows):
    """The time of a move against the cells that it touches: all of a cache's, or some."""
    markers = dict(zip(values(rows, "n_ctx"), "os^vDP*X" * len(rows)))
    rows = [r for r in rows if r["rope"] == rows[0]["rope"] and r["moves"] in (8, 100)]
    for type_k in values(rows, "type_k"):
        for keys, style in KEYS.items():
            mine = [r for r in rows if r["type_k"] == type_k and r["keys"] == keys]
            moved = sorted(values(mine, "moved"))
            middle = [statistics.median(r["us a move"] for r in mine if r["moved"] == n) for n in moved]
            ax.plot(moved, middle, style, color=COLORS[type_k])
            for n_ctx, marker in markers.items() if keys == "rotated" else ():
                points = [(r["moved"], r["us a move"]) for r in mine if r["n_ctx"] == n_ctx]
                ax.plot(*zip(*points), marker, color=COLORS[type_k])
    ax.set(title="cost", xlabel="cells moved", ylabel="µs a move", xscale="log", yscale="log")
    plain_ticks(ax, sorted(values(rows, "moved")))
    ax.legend(handles=[Line2D([], [], color="black", linestyle="", marker=m, label=f"n_ctx {n}")
                       for n, m in markers.items()])


def kv_shift(rows):
    ropes = values(rows, "rope")
    figure, axes = plt.subplots(1, len(ropes) + 1, figsize=(4.4 * (len(ropes) + 1), 4.6), layout="constrained")
    for ax, rope in zip(axes, ropes):
        draw_error(ax, rows, rope)
    for ax in axes[1:-1]:
        ax.sharey(axes[0])
    draw_cost(axes[-1], rows)
    handles = [Line2D([], [], color=COLORS[t], label=f"K {t}") for t in values(rows, "type_k")]
    handles += [Line2D([], [], color="black", linestyle=s, label=f"{k} keys") for k, s in KEYS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def rope_cache(rows):
    types = values(rows, "type_k")
    figure, axes = plt.subplots(1, len(types), figsize=(1.5 + 3.5 * len(types), 4.4), sharey=True, squeeze=False,
                                layout="constrained")
    styles = {"relative": "C0o-", "relative, moved": "C0s--", "unrotated": "C1o-", "unrotated, moved": "C1s--"}
    for ax, type_k in zip(axes[0], types):
        mine = [r for r in rows if r["type_k"] == type_k]
        tokens = values(mine, "tokens")
        ax.axhline(1, color="gray", linewidth=1)
        for name, style in styles.items():
            ax.plot(tokens, [r[name] for r in mine], style, label=name)
        ax.set(title=f"K {type_k}", xlabel="cached tokens", xscale="log")
        plain_ticks(ax, tokens)
    axes[0][0].set_ylabel("generation, times the speed with rotated keys")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(styles))
    return figure


def edits(rows):
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    left.plot(values(rows, "turn"), [r["logits' deviation"] for r in rows], "o-", label="moving edits")
    left.set(title="what moving cells does to the logits", xlabel="turns of the conversation",
             ylabel="relative deviation from exact edits", ylim=(0, None))
    for kind in ("exact", "moving"):
        right.plot(values(rows, "tokens"), [r[f"{kind}: s"] for r in rows], "o-", label=f"{kind} edits")
    right.set(title="what it saves", xlabel="tokens of the conversation", ylabel="seconds an edit",
              yscale="log")
    left.legend()
    right.legend()
    return figure


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        with sys.stdin if sys.argv[1] == "-" else open(sys.argv[1], encoding="utf-8") as file:
            rows = json.load(file)
        columns = set(rows[0])
        draw = (kv_shift if "moves" in columns else rope_cache if "rotated t/s" in columns
                else edits if "turn" in columns else None)
        if draw is None:
            raise ValueError("no result of bench kv-shift, rope-cache or edits")
        figure = draw(rows)
        figure.suptitle(f"{rows[0]['model']} on {rows[0]['device']}")
        is_svg = sys.argv[2].endswith(".svg")
        figure.savefig(sys.argv[2], dpi=150, metadata={"Date": None} if is_svg else None)
    except (OSError, ValueError, LookupError, TypeError) as error:
        sys.exit(f"plot.py: {sys.argv[1]}: {error}")


main()
