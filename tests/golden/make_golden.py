"""Makes the golden files of this folder with Hugging Face transformers: weights upcast to float32, eager attention.

  python3 make_golden.py            # all;  or some of: demo tiny tokenizer

Formats: README.md in this folder. Needs the folders that make_tiny.py writes, and deploy/demo_model.
"""

import argparse
import base64
import json
import os
import random
import sys

import tokenizers
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
DEMO = os.path.join(ROOT, "deploy", "demo_model")
sys.path.insert(0, os.path.join(ROOT, "tools", "demo_model"))

import evaluate  # noqa: E402  (tools/demo_model)
import generate_text  # noqa: E402
import golden_inputs  # noqa: E402
import make_tiny  # noqa: E402

NEW_TOKENS = 64
GAP_MIN = 1e-4   # of the range of the logits: below, two right programs may differ
MADE_BY = {"script": "tests/golden/make_golden.py", "python": sys.version.split()[0], "torch": torch.__version__,
           "transformers": transformers.__version__, "tokenizers": tokenizers.__version__,
           "computed_in": "float32, eager attention, bfloat16 weights upcast"}


@torch.no_grad()
def greedy(model, prompt):
  """64 greedy ids (end-of-text does not stop) and the least gap between the two best logits, as part of the range."""
  ids, cache, out, least = torch.tensor([prompt]), None, [], 1.0
  for _ in range(NEW_TOKENS):
    result = model(ids, past_key_values=cache, use_cache=True)
    cache, logits = result.past_key_values, result.logits[0, -1]
    best = logits.topk(2).values
    least = min(least, ((best[0] - best[1]) / (logits.max() - logits.min())).item())
    out.append(int(logits.argmax()))
    ids = torch.tensor([[out[-1]]])
  return out, least


def continuations(model, prompts, count):
  """The first `count` of `prompts` ({"prompt_ids", ...}) whose continuation never comes near a tie."""
  chosen = []
  for entry in prompts:
    if len(chosen) == count:
      break
    ids, gap = greedy(model, entry["prompt_ids"])
    if gap >= GAP_MIN:
      chosen.append({**entry, "ids": ids, "gap_min": round(gap, 6)})
  if len(chosen) < count:
    raise SystemExit(f"only {len(chosen)} of {count} prompts are clear; give more prompts")
  return chosen


@torch.no_grad()
def logits_at(model, prompt, positions):
  logits = model(torch.tensor([prompt])).logits[0, positions].contiguous()
  return {"prompt_ids": prompt, "positions": positions, "shape": list(logits.shape),
          "float32_base64": base64.b64encode(logits.numpy().astype("<f4").tobytes()).decode()}


def write(name, content):
  path = os.path.join(HERE, name)
  with open(path, "w", encoding="utf-8") as file:
    json.dump({"made_by": MADE_BY, **content}, file, ensure_ascii=True, separators=(",", ":"))
    file.write("\n")
  print(f"{name}: {os.path.getsize(path)} bytes")


def demo_prompts(tokenizer):
  for text in golden_inputs.PLAIN_PROMPTS:
    yield {"chat": False, "text": text, "prompt_ids": tokenizer(text).input_ids}
  for text in golden_inputs.CHAT_PROMPTS:
    rendered = tokenizer.apply_chat_template(evaluate.user(text), tokenize=False, add_generation_prompt=True)
    yield {"chat": True, "text": text, "prompt_ids": tokenizer(rendered).input_ids}


def interleave(entries):
  """Plain and chat prompts by turns, so that the first 50 hold both kinds."""
  plain, chat = [e for e in entries if not e["chat"]], [e for e in entries if e["chat"]]
  return [e for pair in zip(plain, chat) for e in pair] + plain[len(chat):] + chat[len(plain):]


def make_demo():
  model, tokenizer = evaluate.load(DEMO)
  entries = interleave(list(demo_prompts(tokenizer)))
  greedy_entries = continuations(model, entries, 50)
  for entry in greedy_entries:
    entry["output_text"] = tokenizer.decode(entry["ids"])
  documents = generate_text.read_documents(os.path.join(DEMO, "heldout.txt"))
  many = tokenizer("".join(documents)).input_ids
  logits = [logits_at(model, e["prompt_ids"], sorted({0, len(e["prompt_ids"]) // 2, len(e["prompt_ids"]) - 1}))
            for e in entries[:6]]
  logits.append(logits_at(model, many[:500], [0, 127, 128, 255, 499]))
  logits.append(logits_at(model, many[500:2500], [1, 511, 1024, 1999]))
  held_out = evaluate.held_out_likelihood(model, tokenizer, os.path.join(DEMO, "heldout.txt"))
  write("demo.json", {"model": "deploy/demo_model", "continuations": greedy_entries, "logits": logits,
                      "held_out": {"file": "deploy/demo_model/heldout.txt", **held_out}})


def make_tiny_models():
  for name, (seed, _, config) in make_tiny.MODELS.items():
    model = AutoModelForCausalLM.from_pretrained(os.path.join(HERE, name), dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    rng = random.Random(seed)
    lengths = [1, 2, 3, 5, 8, 13, 21, 34, 64, 65, 100, 130, 4, 7, 17, 33, 50, 90, *range(2, 62)]
    prompts = [{"prompt_ids": [rng.randrange(3, config["vocab_size"]) for _ in range(length)]} for length in lengths]
    chosen = continuations(model, prompts, 50)
    logits = [logits_at(model, e["prompt_ids"], sorted({0, len(e["prompt_ids"]) // 2, len(e["prompt_ids"]) - 1}))
              for e in chosen[:10]]
    long = [rng.randrange(3, config["vocab_size"]) for _ in range(400)]
    logits.append(logits_at(model, long, [0, 63, 64, 128, 255, 399]))
    write(f"{name}.json", {"model": f"tests/golden/{name}", "continuations": chosen, "logits": logits})


def make_tokenizer():
  tokenizer = AutoTokenizer.from_pretrained(DEMO)
  strings = []
  for text in golden_inputs.STRINGS:
    ids = tokenizer(text).input_ids
    strings.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, clean_up_tokenization_spaces=False)})
  chats = []
  for messages in golden_inputs.CONVERSATIONS:
    for add in (True, False):
      rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add)
      chats.append({"messages": messages, "add_generation_prompt": add, "rendered": rendered,
                    "ids": tokenizer(rendered).input_ids})
  write("demo_tokenizer.json", {"model": "deploy/demo_model", "strings": strings, "chats": chats})


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("parts", nargs="*", default=["demo", "tiny", "tokenizer"])
  args = parser.parse_args()
  torch.set_num_threads(1)
  makers = {"demo": make_demo, "tiny": make_tiny_models, "tokenizer": make_tokenizer}
  for part in args.parts:
    makers[part]()


if __name__ == "__main__":
  main()
