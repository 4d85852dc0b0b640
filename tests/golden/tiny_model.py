"""Random weights and hyper-parameters of a tiny Llama around a given vocabulary, for GGUF files."""

import gguf
import numpy as np

N_HEADS, N_KV_HEADS, N_FF, N_CTX = 2, 1, 64, 512


def add_tiny_llama(writer, n_vocab, n_embd, n_layers, dtype, seed):
  """Adds keys and tensors; the output layer is the embedding. dtype: GGMLQuantizationType."""
  head_dim = n_embd // N_HEADS
  writer.add_context_length(N_CTX)
  writer.add_embedding_length(n_embd)
  writer.add_block_count(n_layers)
  writer.add_feed_forward_length(N_FF)
  writer.add_head_count(N_HEADS)
  writer.add_head_count_kv(N_KV_HEADS)
  writer.add_layer_norm_rms_eps(1e-5)
  writer.add_rope_dimension_count(head_dim)
  writer.add_rope_freq_base(10000.0)
  writer.add_vocab_size(n_vocab)

  rng = np.random.default_rng(seed)

  def norm(name):
    x = 1.0 + 0.2 * rng.standard_normal(n_embd)
    writer.add_tensor(name + ".weight", x.astype(np.float32))

  def matrix(name, n_rows, n_columns):
    x = (rng.standard_normal((n_rows, n_columns)) / np.sqrt(n_columns)).astype(np.float32)
    writer.add_tensor(name + ".weight", gguf.quants.quantize(x, dtype), raw_dtype=dtype)

  matrix("token_embd", n_vocab, n_embd)
  norm("output_norm")
  for i in range(n_layers):
    blk = f"blk.{i}."
    norm(blk + "attn_norm")
    matrix(blk + "attn_q", n_embd, n_embd)
    matrix(blk + "attn_k", N_KV_HEADS * head_dim, n_embd)
    matrix(blk + "attn_v", N_KV_HEADS * head_dim, n_embd)
    matrix(blk + "attn_output", n_embd, n_embd)
    norm(blk + "ffn_norm")
    matrix(blk + "ffn_gate", N_FF, n_embd)
    matrix(blk + "ffn_up", N_FF, n_embd)
    matrix(blk + "ffn_down", n_embd, N_FF)


def save(writer):
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
