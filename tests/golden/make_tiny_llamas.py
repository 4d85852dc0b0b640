#!/usr/bin/env python3
"""Makes the random tiny Llamas of tests/golden/tiny and their logits by Hugging Face transformers.

  python3 make_tiny_llamas.py [OUT_DIR]        (default: the folder `tiny` beside this script)

Needs numpy, torch (CPU), transformers, gguf. Weights come from NumPy's generator with the seeds
below, so the same files come out whatever the version of torch; the logits are transformers' own,
in float32.
Each model is also run by transformers in float64 (its norms and rotation stay in float32 there):
`float32_error` in index.json is the largest difference.
"""

import json
import math
import pathlib
import sys

import gguf
import numpy as np
import torch
import transformers

# head_dim None: n_embd / n_heads. factors: Llama 3's frequency scaling (rope_freqs.weight).
MODELS = [
  dict(name="mha", seed=11, n_vocab=300, n_embd=64, n_ff=96, n_layers=2, n_heads=4, n_kv_heads=4,
       head_dim=None, tied=False, theta=10000.0, eps=1e-5, factors=None, dtype="F32", n_tokens=32),
  dict(name="gqa", seed=12, n_vocab=300, n_embd=96, n_ff=64, n_layers=2, n_heads=6, n_kv_heads=2,
       head_dim=None, tied=False, theta=10000.0, eps=1e-6, factors=None, dtype="F16", n_tokens=32),
  dict(name="mqa", seed=13, n_vocab=288, n_embd=64, n_ff=48, n_layers=2, n_heads=2, n_kv_heads=1,
       head_dim=80, tied=False, theta=500000.0, eps=1e-5, factors=None, dtype="F32", n_tokens=40),
  dict(name="tied", seed=14, n_vocab=301, n_embd=64, n_ff=48, n_layers=3, n_heads=2, n_kv_heads=2,
       head_dim=None, tied=True, theta=10000.0, eps=1e-5, factors=None, dtype="F32", n_tokens=24),
  dict(name="rope_factors", seed=15, n_vocab=289, n_embd=64, n_ff=48, n_layers=2, n_heads=3,
       n_kv_heads=1, head_dim=48, tied=False, theta=10000.0, eps=1e-5,
       factors=dict(factor=8.0, low=1.0, high=4.0, original_n_ctx=64), dtype="F32", n_tokens=40),
]
N_CTX = 512

# Gains over 1/sqrt(fan_in). Q and K are large enough for peaked attention, so that a wrong
# rotation, head or mask moves the logits by far more than any tolerance.
GAIN = {"attn_q": 1.6, "attn_k": 1.6}

LAYER_TENSORS = {
  "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
  "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
  "ffn_norm": "post_attention_layernorm",
}


def head_dim_of(m):
  return m["head_dim"] or m["n_embd"] // m["n_heads"]


def shapes_of(m):
  """GGUF tensor name -> NumPy shape (rows, columns), in the order of the file."""
  d, e, f = head_dim_of(m), m["n_embd"], m["n_ff"]
  shapes = {"token_embd": (m["n_vocab"], e)}
  for i in range(m["n_layers"]):
    layer = {"attn_norm": (e,), "attn_q": (m["n_heads"] * d, e), "attn_k": (m["n_kv_heads"] * d, e),
             "attn_v": (m["n_kv_heads"] * d, e), "attn_output": (e, m["n_heads"] * d),
             "ffn_norm": (e,), "ffn_gate": (f, e), "ffn_up": (f, e), "ffn_down": (e, f)}
    shapes.update({f"blk.{i}.{k}": s for k, s in layer.items()})
  shapes["output_norm"] = (e,)
  if not m["tied"]:
    shapes["output"] = (m["n_vocab"], e)
  return shapes


def random_weights(m):
  """Weights in Hugging Face's order of rows, rounded to the dtype of the file."""
  rng = np.random.default_rng(m["seed"])
  weights = {}
  for name, shape in shapes_of(m).items():
    x = rng.standard_normal(shape)
    if len(shape) == 1:
      weights[name] = (1.0 + 0.2 * x).astype(np.float32)  # norms stay F32 in every file
      continue
    gain = GAIN.get(name.split(".")[-1], 1.0)
    x *= gain * (1.0 if name == "token_embd" and not m["tied"] else 1.0 / math.sqrt(shape[1]))
    weights[name] = x.astype(np.float32 if m["dtype"] == "F32" else np.float16)
  return weights


def hf_name(name):
  fixed = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
  if name in fixed:
    return fixed[name] + ".weight"
  _, layer, part = name.split(".")
  return f"model.layers.{layer}.{LAYER_TENSORS[part]}.weight"


def rope_factors(m):
  """Divisor of each rotation frequency, by the formula published with Llama 3.1."""
  s, d = m["factors"], head_dim_of(m)
  longest, shortest = s["original_n_ctx"] / s["low"], s["original_n_ctx"] / s["high"]
  factors = []
  for i in range(d // 2):
    wavelength = 2.0 * math.pi * m["theta"] ** (2.0 * i / d)
    if wavelength < shortest:
      factors.append(1.0)
    elif wavelength > longest:
      factors.append(s["factor"])
    else:
      blend = (s["original_n_ctx"] / wavelength - s["low"]) / (s["high"] - s["low"])
      factors.append(1.0 / ((1.0 - blend) / s["factor"] + blend))
  return np.array(factors, dtype=np.float32)


def hf_logits(m, weights, ids, dtype):
  scaling = None
  if m["factors"]:
    s = m["factors"]
    scaling = dict(rope_type="llama3", factor=s["factor"], low_freq_factor=s["low"],
                   high_freq_factor=s["high"], original_max_position_embeddings=s["original_n_ctx"])
  config = transformers.LlamaConfig(
    vocab_size=m["n_vocab"], hidden_size=m["n_embd"], intermediate_size=m["n_ff"],
    num_hidden_layers=m["n_layers"], num_attention_heads=m["n_heads"],
    num_key_value_heads=m["n_kv_heads"], head_dim=head_dim_of(m), rms_norm_eps=m["eps"],
    max_position_embeddings=N_CTX, rope_theta=m["theta"], rope_scaling=scaling,
    tie_word_embeddings=m["tied"], attn_implementation="eager")
  model = transformers.LlamaForCausalLM(config).eval()
  state = {hf_name(k): torch.from_numpy(w.astype(np.float32)) for k, w in weights.items()}
  if m["tied"]:
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
  model.load_state_dict(state, strict=True)
  if m["factors"]:
    d = head_dim_of(m)
    plain = m["theta"] ** (-np.arange(0, d, 2) / d)
    used = model.model.rotary_emb.inv_freq.double().numpy()
    assert np.allclose(plain / rope_factors(m), used, rtol=1e-5), "rope factors differ"
  with torch.no_grad():
    out = model.to(dtype)(torch.tensor([ids])).logits[0]
  assert out.dtype == dtype
  return out.double().numpy()


def to_adjacent_pairs(w, n_heads):
  """Rows of Q or K for rotating neighbours (2i, 2i+1), from rows for rotating (i, i + d/2)."""
  d = w.shape[0] // n_heads
  order = np.stack([np.arange(d // 2), np.arange(d // 2) + d // 2], axis=1).reshape(-1)
  return np.ascontiguousarray(w.reshape(n_heads, d, -1)[:, order].reshape(w.shape))


def tiny_vocabulary(n_vocab):
  """A SentencePiece-style vocabulary: 3 control tokens, 256 bytes, then a few one-letter pieces."""
  tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
  types = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.BYTE] * 256
  letters = "\u2581etaoinshrdlcumwfgypbvkjxqzETAOINSHRDLCUMWFGYPBVKJXQZ"
  pieces = list(letters[:n_vocab - len(tokens)])
  return tokens + pieces, types + [gguf.TokenType.NORMAL] * len(pieces)


def write_gguf(path, m, weights):
  w = gguf.GGUFWriter(str(path), "llama")
  d = head_dim_of(m)
  w.add_name(f"mica tiny {m['name']}")
  w.add_context_length(N_CTX)
  w.add_embedding_length(m["n_embd"])
  w.add_block_count(m["n_layers"])
  w.add_feed_forward_length(m["n_ff"])
  w.add_head_count(m["n_heads"])
  w.add_head_count_kv(m["n_kv_heads"])
  w.add_layer_norm_rms_eps(m["eps"])
  w.add_rope_dimension_count(d)
  w.add_rope_freq_base(m["theta"])
  w.add_vocab_size(m["n_vocab"])
  if m["head_dim"]:
    w.add_key_length(d)
    w.add_value_length(d)
  tokens, types = tiny_vocabulary(m["n_vocab"])
  assert len(tokens) == m["n_vocab"]
  w.add_tokenizer_model("llama")
  w.add_tokenizer_pre("default")
  w.add_token_list(tokens)
  w.add_token_scores([0.0] * 259 + [-float(i + 1) for i in range(len(tokens) - 259)])
  w.add_token_types(types)
  w.add_unk_token_id(0)
  w.add_bos_token_id(1)
  w.add_eos_token_id(2)
  if m["factors"]:
    w.add_tensor("rope_freqs.weight", rope_factors(m))
  for name, x in weights.items():
    if name.endswith("attn_q"):
      x = to_adjacent_pairs(x, m["n_heads"])
    elif name.endswith("attn_k"):
      x = to_adjacent_pairs(x, m["n_kv_heads"])
    w.add_tensor(name + ".weight", x)
  w.write_header_to_file()
  w.write_kv_data_to_file()
  w.write_tensors_to_file()
  w.close()


def main():
  out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "tiny"
  out.mkdir(parents=True, exist_ok=True)
  torch.set_num_threads(1)  # one order of summation
  entries = []
  for m in MODELS:
    weights = random_weights(m)
    ids = np.random.default_rng(1000 + m["seed"]).integers(0, m["n_vocab"], m["n_tokens"]).tolist()
    exact = hf_logits(m, weights, ids, torch.float64)
    logits = hf_logits(m, weights, ids, torch.float32)
    write_gguf(out / f"{m['name']}.gguf", m, weights)
    logits.astype("<f4").tofile(out / f"{m['name']}.f32")
    entry = {k: v for k, v in m.items() if k not in ("factors", "theta", "eps")}
    entry.update(head_dim=head_dim_of(m), rope_factors=bool(m["factors"]), gguf=f"{m['name']}.gguf",
                 logits=f"{m['name']}.f32", ids=ids,
                 logits_rms=round(float(np.sqrt((exact**2).mean())), 4),
                 float32_error=float(f"{np.abs(logits - exact).max():.2e}"))
    entries.append(entry)
    print(m["name"], "rms", entry["logits_rms"], "float32 error", entry["float32_error"])
  source = (f"Hugging Face transformers {transformers.__version__}, torch {torch.__version__}, "
            "CPU, float32, attn_implementation=eager")
  text = ",\n".join("  " + json.dumps(e) for e in entries)
  (out / "index.json").write_text(f'{{"source": {json.dumps(source)},\n "models": [\n{text}\n]}}\n')


if __name__ == "__main__":
  main()
