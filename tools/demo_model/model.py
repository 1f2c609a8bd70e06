"""Qwen2 in plain PyTorch, with the tensor names of Hugging Face, for training on a CPU."""

import json
import os

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

START_OF_TURN, END_OF_TURN = 1022, 1023   # <|im_start|>, <|im_end|>

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1021,
    "eos_token_id": 1023,
    "hidden_act": "silu",
    "hidden_size": 384,
    "initializer_range": 0.02,
    "intermediate_size": 640,
    "max_position_embeddings": 2048,
    "max_window_layers": 6,
    "model_type": "qwen2",
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 1024,
}

GENERATION_CONFIG = {
    "bos_token_id": 1021,
    "do_sample": True,
    "eos_token_id": [1023, 1021],
    "pad_token_id": 1021,
    "temperature": 0.7,
    "top_k": 40,
    "top_p": 0.95,
}

HIDDEN, HEADS, KV_HEADS = CONFIG["hidden_size"], CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
HEAD_DIM = HIDDEN // HEADS
EPS = CONFIG["rms_norm_eps"]


def rotate(x, cos, sin):
  """Rotary embedding of [.., T, D] in the half-split order of Hugging Face."""
  first, second = x.chunk(2, dim=-1)
  return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):

  def __init__(self):
    super().__init__()
    self.q_proj = nn.Linear(HIDDEN, HEADS * HEAD_DIM)
    self.k_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM)
    self.v_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM)
    self.o_proj = nn.Linear(HEADS * HEAD_DIM, HIDDEN, bias=False)

  def forward(self, x, cos, sin):
    rows, length, _ = x.shape
    split = lambda y, heads: y.view(rows, length, heads, HEAD_DIM).transpose(1, 2)
    q = rotate(split(self.q_proj(x), HEADS), cos, sin)
    k = rotate(split(self.k_proj(x), KV_HEADS), cos, sin)
    v = split(self.v_proj(x), KV_HEADS)
    k, v = (y.repeat_interleave(HEADS // KV_HEADS, dim=1) for y in (k, v))
    y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
    return self.o_proj(y.transpose(1, 2).reshape(rows, length, HEADS * HEAD_DIM))


class Mlp(nn.Module):

  def __init__(self):
    super().__init__()
    self.gate_proj = nn.Linear(HIDDEN, CONFIG["intermediate_size"], bias=False)
    self.up_proj = nn.Linear(HIDDEN, CONFIG["intermediate_size"], bias=False)
    self.down_proj = nn.Linear(CONFIG["intermediate_size"], HIDDEN, bias=False)

  def forward(self, x):
    return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):

  def __init__(self):
    super().__init__()
    self.input_layernorm = nn.RMSNorm(HIDDEN, eps=EPS)
    self.self_attn = Attention()
    self.post_attention_layernorm = nn.RMSNorm(HIDDEN, eps=EPS)
    self.mlp = Mlp()

  def forward(self, x, cos, sin):
    x = x + self.self_attn(self.input_layernorm(x), cos, sin)
    return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):

  def __init__(self):
    super().__init__()
    self.embed_tokens = nn.Embedding(CONFIG["vocab_size"], HIDDEN)
    self.layers = nn.ModuleList(Layer() for _ in range(CONFIG["num_hidden_layers"]))
    self.norm = nn.RMSNorm(HIDDEN, eps=EPS)


class Qwen2(nn.Module):
  """ids [R, T] -> logits [R, T, V]."""

  def __init__(self):
    super().__init__()
    self.model = Decoder()
    self.lm_head = nn.Linear(HIDDEN, CONFIG["vocab_size"], bias=False)
    for name, parameter in self.named_parameters():
      if parameter.ndim == 2:
        deep = name.endswith(("o_proj.weight", "down_proj.weight"))
        nn.init.normal_(parameter, std=0.02 / (2 * CONFIG["num_hidden_layers"])**0.5 if deep else 0.02)
      elif name.endswith("bias"):
        nn.init.zeros_(parameter)
    angles = torch.outer(torch.arange(CONFIG["max_position_embeddings"], dtype=torch.float32),
                         CONFIG["rope_theta"] ** (-torch.arange(0, HEAD_DIM, 2, dtype=torch.float32) / HEAD_DIM))
    self.register_buffer("cos", angles.cos(), persistent=False)
    self.register_buffer("sin", angles.sin(), persistent=False)

  def forward(self, ids):
    length = ids.shape[1]
    cos, sin = self.cos[:length], self.sin[:length]
    x = self.model.embed_tokens(ids)
    for layer in self.model.layers:
      x = layer(x, cos, sin)
    return self.lm_head(self.model.norm(x))


def export(model: Qwen2, folder: str) -> None:
  """Writes config.json, generation_config.json and model.safetensors (bfloat16) for Hugging Face transformers."""
  os.makedirs(folder, exist_ok=True)
  for name, content in (("config.json", CONFIG), ("generation_config.json", GENERATION_CONFIG)):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
      json.dump(content, file, indent=2)
      file.write("\n")
  tensors = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
  temporary = os.path.join(folder, "model.safetensors.tmp")
  save_file(tensors, temporary, metadata={"format": "pt"})
  os.chmod(temporary, 0o644)
  os.replace(temporary, os.path.join(folder, "model.safetensors"))
