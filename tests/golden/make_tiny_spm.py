#!/usr/bin/env python3
"""Makes tokenizer/tiny_spm.gguf: a tiny random Llama with a SentencePiece BPE vocabulary.

  python3 make_tiny_spm.py TEXT [OUT.gguf]

TEXT is the text to train on (the committed file: wikitext-2's test split). Needs numpy,
sentencepiece, gguf. The vocabulary has byte fallback, split digits, a dummy space in front, no
normalization; one control token inside text (<|user|>) and one user-defined token (<|tag|>).
"""

import io
import pathlib
import sys

import gguf
import sentencepiece

import tiny_model

N_VOCAB = 800


def train(text):
  blob = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(text.splitlines()), model_writer=blob, model_type="bpe",
    vocab_size=N_VOCAB, byte_fallback=True, split_digits=True, add_dummy_prefix=True,
    normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1,
    allow_whitespace_only_pieces=True, character_coverage=0.9995, input_sentence_size=0,
    control_symbols=["<|user|>"], user_defined_symbols=["<|tag|>"], minloglevel=1)
  return sentencepiece.SentencePieceProcessor(model_proto=blob.getvalue())


def type_of(model, i):
  if model.is_unknown(i):
    return gguf.TokenType.UNKNOWN
  if model.is_control(i):
    return gguf.TokenType.CONTROL
  if model.is_byte(i):
    return gguf.TokenType.BYTE
  return gguf.TokenType.USER_DEFINED if model.id_to_piece(i) == "<|tag|>" else gguf.TokenType.NORMAL


def main():
  text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
  default = pathlib.Path(__file__).parent / "tokenizer" / "tiny_spm.gguf"
  out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else default
  model = train(text)
  n_vocab = model.vocab_size()
  writer = gguf.GGUFWriter(str(out), "llama")
  writer.add_name("mica tiny spm")
  tiny_model.add_tiny_llama(writer, n_vocab, n_embd=32, n_layers=2, seed=21,
                            dtype=gguf.GGMLQuantizationType.F16)
  writer.add_tokenizer_model("llama")
  writer.add_tokenizer_pre("default")
  writer.add_token_list([model.id_to_piece(i) for i in range(n_vocab)])
  writer.add_token_scores([model.get_score(i) for i in range(n_vocab)])
  writer.add_token_types([type_of(model, i) for i in range(n_vocab)])
  writer.add_unk_token_id(model.unk_id())
  writer.add_bos_token_id(model.bos_id())
  writer.add_eos_token_id(model.eos_id())
  writer.add_add_bos_token(True)
  writer.add_add_eos_token(False)
  tiny_model.save(writer)
  print(out, "n_vocab", n_vocab, "bytes", out.stat().st_size)


if __name__ == "__main__":
  main()
