#!/usr/bin/env python3
"""Makes tokenizer/tiny_bpe_*.gguf: tiny random Llamas with one byte-level BPE vocabulary.

  python3 make_tiny_bpe.py TEXT [OUT_DIR]

TEXT is text to train on (the committed files: wikitext-2's test split). Needs numpy, tokenizers,
gguf. The four files differ in tokenizer.ggml.pre only (and llama-bpe adds a BOS). The merges are
trained WITHOUT a pre-tokenizer, so many of them cross the borders that a pre-tokenizer draws
(after "the ", inside "1999", before "'ll"): text split at a wrong place gets other ids. Some words
stand in the vocabulary without merges that reach them: only a tokenizer that ignores merges for
whole words (llama-bpe) gives them one id.
"""

import json
import pathlib
import random
import sys

import gguf
import tokenizers

import tiny_model

PRE_TOKENIZERS = ["gpt-2", "llama-bpe", "qwen2", "smollm"]
N_MERGES = 420
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<|tool|>"]
WITHOUT_MERGES = ["quux", " xyzzy", " \u00fcber", "\u4f60\u597d", " 2026", "2026", "'ve been"]

# Fragments of the kinds in which pre-tokenizers differ, strung together at random for training.
FRAGMENTS = [
  ["'s", "'S", "'t", "'T", "'re", "'RE", "'ve", "'VE", "'m", "'M", "'ll", "'LL", "'d", "'D"],
  ["0", "00", "1", "12", "123", "1999", "2026", "3.14", "1,000", "42", "7", "x9", "0xFF"],
  [" ", "  ", "   ", "    ", "\t", "\t\t", "\n", "\n\n", " \n", "\n  ", "\r\n", "\u00a0"],
  ["!", "!!", "...", "?", "?!", "--", "==", "->", "::", "();", "{}", "[0]", "\"", "(", ")", "$"],
  ["he", "we", "I", "you", "the", "The", "THE", "Camel", "Case", "snake", "_", "int", "return"],
  ["\u00e9", "na\u00efve", "\u00fc", "\u4f60\u597d", "\u4e16\u754c", "\u041f\u0440\u0438",
   "\U0001f600"],
]


def byte_symbols():
  """GPT-2's printable character of each byte: printable Latin-1 stays, the rest from U+0100."""
  kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  moved = [b for b in range(256) if b not in kept]
  return {**{b: chr(b) for b in kept}, **{b: chr(256 + i) for i, b in enumerate(moved)}}


def train(text):
  model = tokenizers.Tokenizer(tokenizers.models.BPE())
  model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=256 + N_MERGES, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False, max_token_length=10)
  rng = random.Random(41)
  odd = ["".join(rng.choice(rng.choice(FRAGMENTS)) for _ in range(200)) for _ in range(300)]
  plain = text.replace("<unk>", "one").replace(" @-@ ", "-").splitlines(keepends=True)[:300]
  model.train_from_iterator(plain + odd, trainer)
  return json.loads(model.to_str())["model"]


def write(path, pre, tokens, types, merges):
  writer = gguf.GGUFWriter(str(path), "llama")
  writer.add_name(f"mica tiny bpe {pre}")
  tiny_model.add_tiny_llama(writer, len(tokens), n_embd=32, n_layers=1, seed=31,
                            dtype=gguf.GGMLQuantizationType.Q8_0)
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre(pre)
  writer.add_token_list(tokens)
  writer.add_token_types(types)
  writer.add_token_merges(merges)
  writer.add_bos_token_id(tokens.index("<|endoftext|>"))
  writer.add_eos_token_id(tokens.index("<|im_end|>"))
  writer.add_add_bos_token(pre == "llama-bpe")
  tiny_model.save(writer)
  print(path, "n_vocab", len(tokens), "bytes", path.stat().st_size)


def main():
  text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
  default = pathlib.Path(__file__).parent / "tokenizer"
  out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else default
  model = train(text)
  tokens = sorted(model["vocab"], key=model["vocab"].get)
  symbols = byte_symbols()
  spell = lambda s: "".join(symbols[b] for b in s.encode())
  tokens += [spell(s) for s in WITHOUT_MERGES if spell(s) not in tokens]
  types = [gguf.TokenType.NORMAL] * len(tokens)
  tokens += CONTROL + USER_DEFINED
  types += [gguf.TokenType.CONTROL] * len(CONTROL)
  types += [gguf.TokenType.USER_DEFINED] * len(USER_DEFINED)
  merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
  for pre in PRE_TOKENIZERS:
    write(out / f"tiny_bpe_{pre}.gguf", pre, tokens, types, merges)


if __name__ == "__main__":
  main()
