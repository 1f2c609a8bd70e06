"""Compares weight formats on trained models: perplexity, KL divergence to float32 and agreement of the top token.

  python3 quantization_study.py --demo ../../deploy/demo_model [--llama2c MODEL.bin TOKENIZER.bin TEXT PARAGRAPHS]...
                                [--out table.md]

Every linear layer and the output head is quantized and dequantized; embedding and norms stay as they are. Activations
are float32, or int8 in groups of 128 along the inputs of every linear layer (one float scale per token and group).
Scales: "absmax" covers the largest value, "searched" minimizes the squared error of the weights over a grid.
"""

import argparse
import math
import os
import struct

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import evaluate
import generate_text

ACTIVATION_GROUP = 128
BATCH_TOKENS = 4096


def grouped(w, size):
  """[R, K] -> [R, G, size]; the last group is filled with zeros."""
  pad = -w.shape[1] % size
  return F.pad(w, (0, pad)).view(w.shape[0], -1, size)


def ungrouped(g, columns):
  return g.reshape(g.shape[0], -1)[:, :columns]


def half(x):
  """Rounded to float16; a scale of zero becomes the least positive one."""
  return x.half().float().clamp_min(6e-8)


def int8_row(w):
  s = (w.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
  return (w / s).round() * s


def int8_group(w, size):
  g = grouped(w, size)
  s = half(g.abs().amax(2, keepdim=True) / 127)
  return ungrouped((g / s).round().clamp(-127, 127) * s, w.shape[1])


def int4_symmetric(w, size, factors):
  """fp16 scale per group, q in -8..7; the best of scale = factor * absmax / 7 per group."""
  g = grouped(w, size)
  base, best, best_error = g.abs().amax(2, keepdim=True) / 7, None, None
  for factor in factors:
    s = half(base * factor)
    candidate = (g / s).round().clamp(-8, 7) * s
    error = (candidate - g).square().sum(2, keepdim=True)
    if best is None:
      best, best_error = candidate, error
    else:
      better = error < best_error
      best, best_error = torch.where(better, candidate, best), torch.where(better, error, best_error)
  return ungrouped(best, w.shape[1])


def q4_0(w):
  """As in ggml: the value of largest magnitude maps to -8; fp16 scale per 32."""
  g = grouped(w, 32)
  extreme = g.gather(2, g.abs().argmax(2, keepdim=True))
  d = (extreme / -8).half().float()
  inverse = torch.where(d == 0, torch.zeros_like(d), 1 / d)
  return ungrouped(((g * inverse) + 8.5).floor().clamp(0, 15).sub(8) * d, w.shape[1])


def two_level_group(t, n_max):
  """The best w8 = n * q + m for t [R, G, size] in units of the row scale; n 1..n_max, m and w8 int8, q 0..15."""
  low, high = t.amin(2, keepdim=True), t.amax(2, keepdim=True)
  best = best_error = None
  for n_offset in (-2, -1, 0, 1):
    n = (((high - low) / 15).ceil() + n_offset).clamp(1, n_max)
    # A grid narrower than the range is centred on it; the other offsets shift it by parts of a step.
    centre = low + (high - low - 15 * n) / 2
    for shift in (-0.4, -0.2, 0.0, 0.2, 0.4):
      m = (centre + shift * n).round().clamp(-128, 127)
      q = ((t - m) / n).round().clamp(min=0).minimum(torch.div(127 - m, n, rounding_mode="floor")).clamp(max=15)
      candidate = n * q + m
      error = (candidate - t).square().sum(2, keepdim=True)
      if best is None:
        best, best_error = candidate, error
      else:
        better = error < best_error
        best, best_error = torch.where(better, candidate, best), torch.where(better, error, best_error)
  return best, best_error


def two_level(w, size=32, n_max=16):
  """Integer group scale and offset under one float per row: w = s * (n * q + m)."""
  g = grouped(w, size)
  base = (w.abs().amax(1) / 127).clamp_min(1e-12)[:, None, None]
  best = best_error = None
  for factor in (0.75, 0.82, 0.88, 0.94, 0.97, 1.0):
    s = base * factor
    w8, error = two_level_group(g / s, n_max)
    candidate, error = w8 * s, error.sum(1, keepdim=True) * s.square()
    if best is None:
      best, best_error = candidate, error
    else:
      better = error < best_error
      best, best_error = torch.where(better, candidate, best), torch.where(better, error, best_error)
  return ungrouped(best, w.shape[1])


SEARCH = [0.60 + 0.025 * i for i in range(19)]
FORMATS = [  # name, bits per weight (without the float per row), function
    ("int8, float per row", 8.0, int8_row),
    ("int8, fp16 scale g128", 8.125, lambda w: int8_group(w, 128)),
    ("int4, fp16 scale g128, absmax", 4.125, lambda w: int4_symmetric(w, 128, [1.0])),
    ("int4, fp16 scale g128, searched", 4.125, lambda w: int4_symmetric(w, 128, SEARCH)),
    ("int4, fp16 scale g32, searched", 4.5, lambda w: int4_symmetric(w, 32, SEARCH)),
    ("Q4_0 (fp16 scale g32)", 4.5, q4_0),
    ("two-level affine g64, float per row", 4.1875, lambda w: two_level(w, 64)),
    ("two-level affine g32, float per row", 4.375, two_level),
]


def quantize_activations(module, inputs):
  x = inputs[0]
  pad = -x.shape[-1] % ACTIVATION_GROUP
  g = F.pad(x, (0, pad)).unflatten(-1, (-1, ACTIVATION_GROUP))
  s = (g.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-12)
  return (((g / s).round() * s).flatten(-2)[..., :x.shape[-1]],)


@torch.no_grad()
def log_probabilities(model, sequences):
  """Per sequence the log probabilities [T - 1, V] of its tokens 1.., from batches of like length, filled at the end."""
  result, order, i = [None] * len(sequences), sorted(range(len(sequences)), key=lambda i: len(sequences[i])), 0
  while i < len(order):
    batch = order[i:i + max(1, BATCH_TOKENS // len(sequences[order[min(i + 20, len(order) - 1)]]))]
    i += len(batch)
    ids = torch.zeros(len(batch), max(len(sequences[j]) for j in batch), dtype=torch.long)
    for row, j in enumerate(batch):
      ids[row, :len(sequences[j])] = torch.tensor(sequences[j])
    logits = model(ids).logits
    for row, j in enumerate(batch):
      result[j] = torch.log_softmax(logits[row, :len(sequences[j]) - 1], dim=-1)
  return result


def compare(sequences, reference, other):
  """(mean NLL, mean KL(reference || other), agreement of the top token) over all predicted tokens."""
  nll = kl = same = count = 0.0
  for ids, p, q in zip(sequences, reference, other):
    nll -= q.gather(1, torch.tensor(ids[1:])[:, None]).double().sum().item()
    kl += (p.exp() * (p - q)).double().sum().item()
    same += (p.argmax(1) == q.argmax(1)).sum().item()
    count += len(ids) - 1
  return nll / count, kl / count, same / count


def study(name, model, sequences):
  """Table rows of one model: every format with both kinds of activations."""
  linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
  original = [m.weight.data.clone() for m in linears]
  reference = log_probabilities(model, sequences)
  base = compare(sequences, reference, reference)[0]
  rows = [f"| {name} | fp32 | 32 | fp32 | {math.exp(base):.5f} | | | |"]
  print(rows[-1], flush=True)
  for label, bits, quantize in [("fp32", 32, lambda w: w)] + FORMATS:
    error = power = 0.0
    for module, w in zip(linears, original):
      module.weight.data = quantize(w.float()).contiguous()
      error += (module.weight.data - w).square().sum().item()
      power += w.square().sum().item()
    for activations in ("fp32", "int8 g128"):
      if label == "fp32" and activations == "fp32":
        continue
      hooks = [m.register_forward_pre_hook(quantize_activations) for m in linears] if activations != "fp32" else []
      nll, kl, same = compare(sequences, reference, log_probabilities(model, sequences))
      for hook in hooks:
        hook.remove()
      rows.append(f"| {name} | {label} | {bits:g} | {activations} | {100 * (math.exp(nll - base) - 1):+.3f} % | {kl:.6f} | "
                  f"{100 * same:.2f} % | {error / power:.5f} |")
      print(rows[-1], flush=True)
  for module, w in zip(linears, original):
    module.weight.data = w
  return rows


def load_llama2c(path):
  """A Hugging Face Llama from a llama2.c .bin file; rows of q and k go from adjacent pairs to the half-split order."""
  from transformers import LlamaConfig, LlamaForCausalLM
  raw = open(path, "rb").read()
  dim, hidden, layers, heads, kv_heads, vocabulary, length = struct.unpack("<7i", raw[:28])
  data, at, head_dim = np.frombuffer(raw, "<f4", offset=28), 0, dim // heads
  tied, vocabulary = vocabulary > 0, abs(vocabulary)

  def take(*shape):
    nonlocal at
    size = int(np.prod(shape))
    at += size
    return torch.from_numpy(data[at - size:at].reshape(shape).copy())

  def half_split(w):
    return w.view(-1, head_dim // 2, 2, dim).transpose(1, 2).reshape(-1, dim)

  kv = kv_heads * head_dim
  embedding, attention_norm = take(vocabulary, dim), take(layers, dim)
  q, k, v, o = take(layers, dim, dim), take(layers, kv, dim), take(layers, kv, dim), take(layers, dim, dim)
  mlp_norm, gate, down = take(layers, dim), take(layers, hidden, dim), take(layers, dim, hidden)
  up, norm = take(layers, hidden, dim), take(dim)
  take(2, length, head_dim // 2)
  state = {"model.embed_tokens.weight": embedding, "model.norm.weight": norm,
           "lm_head.weight": embedding.clone() if tied else take(vocabulary, dim)}
  for i in range(layers):
    state.update({f"model.layers.{i}.{key}.weight": value for key, value in {
        "input_layernorm": attention_norm[i], "post_attention_layernorm": mlp_norm[i],
        "self_attn.q_proj": half_split(q[i]), "self_attn.k_proj": half_split(k[i]), "self_attn.v_proj": v[i],
        "self_attn.o_proj": o[i], "mlp.gate_proj": gate[i], "mlp.down_proj": down[i], "mlp.up_proj": up[i]}.items()})
  model = LlamaForCausalLM(LlamaConfig(
      vocab_size=vocabulary, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers, rms_norm_eps=1e-5,
      num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=length, tie_word_embeddings=False))
  model.load_state_dict(state)
  return model.float().eval()


class Llama2cTokenizer:
  """The tokenizer.bin of llama2.c: highest-scored merges first; unknown characters become byte tokens (byte + 3)."""

  def __init__(self, path, vocabulary):
    raw, at = open(path, "rb").read(), 4
    self.ids, self.scores = {}, []
    for i in range(vocabulary):
      score, size = struct.unpack_from("<fi", raw, at)
      self.ids.setdefault(raw[at + 8:at + 8 + size], i)
      self.scores.append(score)
      at += 8 + size

  def encode(self, text):
    pieces = [c.encode() for c in " " + text]
    parts = [p for piece in pieces for p in ([piece] if piece in self.ids else [(b + 3) for b in piece])]
    ids = [p if isinstance(p, int) else self.ids[p] for p in parts]
    words = [b"\xff" * 9 if isinstance(p, int) else p for p in parts]   # byte tokens never merge
    while True:
      best = max(((self.scores[self.ids[words[i] + words[i + 1]]], -i) for i in range(len(ids) - 1)
                  if words[i] + words[i + 1] in self.ids), default=None)
      if best is None:
        return [1] + ids
      i = -best[1]
      words[i:i + 2] = [words[i] + words[i + 1]]
      ids[i:i + 2] = [self.ids[words[i]]]


def paragraphs(path, count):
  """The first `count` paragraphs of more than 80 characters."""
  return [p.strip() for p in open(path, encoding="utf-8").read().split("\n") if len(p.strip()) > 80][:count]


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--demo", help="the demo model's folder")
  parser.add_argument("--llama2c", nargs=4, action="append", default=[], metavar=("MODEL", "TOKENIZER", "TEXT", "COUNT"))
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--out")
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  rows = ["| model | weights | bits | activations | perplexity | KL to fp32 | top token agrees | weight error |",
          "|---|---|---|---|---|---|---|---|"]
  if args.demo:
    model, tokenizer = evaluate.load(args.demo)
    documents = generate_text.read_documents(os.path.join(args.demo, "heldout.txt"))
    rows += study("demo", model, [tokenizer(d).input_ids for d in documents])
  for path, vocabulary_path, text, count in args.llama2c:
    model = load_llama2c(path)
    tokenizer = Llama2cTokenizer(vocabulary_path, model.config.vocab_size)
    limit = model.config.max_position_embeddings
    sequences = [tokenizer.encode(p)[:limit] for p in paragraphs(text, int(count))]
    rows += study(os.path.basename(os.path.dirname(os.path.abspath(path))), model, sequences)
  if args.out:
    with open(args.out, "w", encoding="utf-8") as file:
      file.write("\n".join(rows) + "\n")


if __name__ == "__main__":
  main()
