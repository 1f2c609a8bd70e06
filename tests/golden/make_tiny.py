"""Writes the tiny randomly initialised checkpoints of tests/golden: one folder per architecture.

  python3 make_tiny.py

Weights are bfloat16 and large enough that the logits have clear gaps; biases and norm gains are random too, so that a
forgotten bias or gain shows. Token ids only: these folders have no tokenizer.
"""

import json
import os
import shutil

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
COMMON = {"vocab_size": 320, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "hidden_act": "silu",
          "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
          "initializer_range": 0.02, "use_cache": True}

# name -> (seed, shards, config.json). `head_dim` is explicit where heads * head_dim differs from the hidden size.
MODELS = {
    "tiny-qwen2": (1, 1, {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "use_sliding_window": False, **COMMON}),
    "tiny-qwen2-tied": (2, 1, {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 128, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 1000000.0,
        "tie_word_embeddings": True, "use_sliding_window": False, **COMMON}),
    "tiny-llama": (3, 1, {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 160,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32,
        "attention_bias": False, "mlp_bias": False, "rope_theta": 500000.0, "tie_word_embeddings": True,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 64, "rope_type": "llama3"}, **COMMON}),
    "tiny-qwen3": (4, 2, {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 96, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "attention_bias": False, "rope_theta": 1000000.0, "tie_word_embeddings": False, "use_sliding_window": False,
        **COMMON}),
}
CLASSES = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM),
           "qwen3": (Qwen3Config, Qwen3ForCausalLM)}


def random_state(config, seed):
  """Random tensors under the names and shapes that transformers gives this architecture."""
  config_class, model_class = CLASSES[config["model_type"]]
  generator = torch.Generator().manual_seed(seed)
  state = {}
  for name, value in model_class(config_class(**config)).state_dict().items():
    if name == "lm_head.weight" and config["tie_word_embeddings"]:
      continue
    noise = torch.randn(value.shape, generator=generator)
    if name.endswith("norm.weight"):
      value = 1.0 + 0.2 * noise
    elif name.endswith("bias"):
      value = 0.3 * noise
    elif "embed" in name or "lm_head" in name:
      # A tied model with a large embedding only repeats its last token.
      value = (0.08 if config["tie_word_embeddings"] else 0.3) * noise
    else:
      value = noise * 1.2 / value.shape[1]**0.5
    state[name] = value.to(torch.bfloat16).contiguous()
  return state


def write_weights(folder, state, shards):
  if shards == 1:
    save_file(state, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    return
  names = sorted(state)
  files = {}
  for i in range(shards):
    file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
    # Every second tensor, so that neighbouring tensors of a layer lie in different files.
    part = {name: state[name] for name in names[i::shards]}
    save_file(part, os.path.join(folder, file), metadata={"format": "pt"})
    files.update({name: file for name in part})
  total = sum(t.numel() * t.element_size() for t in state.values())
  with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as out:
    json.dump({"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}, out, indent=1)
    out.write("\n")


def main():
  for name, (seed, shards, config) in MODELS.items():
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as out:
      json.dump(config, out, indent=1)
      out.write("\n")
    state = random_state(config, seed)
    write_weights(folder, state, shards)
    for file in os.listdir(folder):
      os.chmod(os.path.join(folder, file), 0o644)
    print(name, sum(t.numel() for t in state.values()), "parameters")


if __name__ == "__main__":
  main()
