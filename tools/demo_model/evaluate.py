"""Measures the demo model with Hugging Face transformers in float32: perplexity of the held-out text, answers, stories.

  python3 evaluate.py --model ../../deploy/demo_model [--json FILE]

Perplexity: every document of heldout.txt is encoded (special tokens included) and run alone from position 0; its first
token has no prediction; the mean negative log likelihood is over all other tokens of all documents, in nats.
"""

import argparse
import json
import math
import os
import random
import re

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import generate_text
import story_grammar as grammar

SEED = 424242


def load(folder):
  """The model as shipped (bfloat16 values) computed in float32, and its tokenizer."""
  model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
  return model.eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def held_out_likelihood(model, tokenizer, path):
  """{"documents", "tokens", "predicted", "nll_mean", "perplexity", "document_nll": sums in nats}."""
  sums, tokens, predicted = [], 0, 0
  for document in generate_text.read_documents(path):
    ids = tokenizer(document, return_tensors="pt").input_ids
    likelihood = torch.log_softmax(model(ids).logits[0, :-1].double(), dim=-1).gather(1, ids[0, 1:, None])
    sums.append(-likelihood.sum().item())
    tokens += ids.shape[1]
    predicted += ids.shape[1] - 1
  mean = sum(sums) / predicted
  return {"documents": len(sums), "tokens": tokens, "predicted": predicted, "nll_mean": mean,
          "perplexity": math.exp(mean), "document_nll": [round(s, 4) for s in sums]}


@torch.no_grad()
def answer(model, tokenizer, conversations, tokens_max, batch=25):
  """Greedy answers to conversations (lists of messages), up to the end of the turn."""
  tokenizer.padding_side = "left"
  answers = []
  for start in range(0, len(conversations), batch):
    texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True)
             for c in conversations[start:start + batch]]
    encoded = tokenizer(texts, return_tensors="pt", padding=True)
    out = model.generate(**encoded, max_new_tokens=tokens_max, do_sample=False, temperature=None, top_k=None, top_p=None)
    answers += [text.split("<|im_end|>")[0] for text in
                tokenizer.batch_decode(out[:, encoded.input_ids.shape[1]:], skip_special_tokens=False)]
  return answers


def user(text):
  return [{"role": "user", "content": text}]


def held_out_pairs(rng, count):
  pairs = [(a, b) for a in range(51) for b in range(51) if generate_text.is_held_out(a, b)]
  return rng.sample(pairs, min(count, len(pairs)))


def question_sets(rng):
  """name -> [(question, answer)]: number pairs never trained on, stories of another seed, all facts."""
  pairs = held_out_pairs(rng, 120)
  stories = [grammar.make_story(rng) for _ in range(150)]
  asked = [(story, rng.choice(story.questions)) for story in stories]
  return {
      "sums (pairs never seen)": [generate_text.sum_question(rng, a, b) for a, b in pairs],
      "differences (pairs never seen)": [generate_text.difference_question(rng, a, b) for a, b in pairs],
      "comparisons": [generate_text.comparison_question(rng, rng.randint(0, 50), rng.randint(0, 50)) for _ in range(80)],
      "number after or before": [generate_text.neighbour_question(rng, n) for n in range(0, 100, 2)],
      "counting": [generate_text.counting_question(rng, n) for n in range(0, 90, 3)],
      "even or odd": [generate_text.parity_question(rng, n) for n in range(0, 50)],
      "days and months": [generate_text.calendar_question(rng) for _ in range(60)],
      "fixed facts": generate_text.FACTS,
      "questions about a given story": [(f"{s.text}\n\n{q}", a) for s, (q, a) in asked],
  }


def story_is_sound(text, kind):
  """A finished story about one `kind`: the hero is introduced as such and named again at the end."""
  hero = re.search(rf"\b{kind} named (\w+)\.", text)
  return bool(hero) and text.count(hero.group(1)) >= 4 and text.endswith(".") and hero.group(1) in text[len(text) // 2:]


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", required=True)
  parser.add_argument("--json", help="also write the figures here")
  parser.add_argument("--threads", type=int, default=2)
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  model, tokenizer = load(args.model)
  rng = random.Random(SEED)
  figures = {"held_out": held_out_likelihood(model, tokenizer, os.path.join(args.model, "heldout.txt")), "answers": {}}
  held_out = figures["held_out"]
  print(f"held out: {held_out['documents']} documents, {held_out['tokens']} tokens, {held_out['predicted']} predicted, "
        f"mean NLL {held_out['nll_mean']:.6f}, perplexity {held_out['perplexity']:.5f}")
  for name, questions in question_sets(rng).items():
    answers = answer(model, tokenizer, [user(q) for q, _ in questions], 40)
    right = [got == want for got, (_, want) in zip(answers, questions)]
    figures["answers"][name] = [sum(right), len(right)]
    print(f"{name}: {sum(right)} of {len(right)} = {100 * sum(right) / len(right):.1f} %")
    wrong = [(q[-60:], want, got) for got, (q, want) in zip(answers, questions) if got != want]
    for line in wrong[:3]:
      print("   wrong:", line)
  kinds = grammar.ANIMALS + ["girl", "boy"]
  stories = answer(model, tokenizer, [user(f"Tell me a story about {grammar.article(k)}.") for k in kinds], 220)
  sound = [story_is_sound(text, kind) for text, kind in zip(stories, kinds)]
  figures["stories"] = [sum(sound), len(sound)]
  print(f"sound stories: {sum(sound)} of {len(sound)}")
  print(stories[0])
  if args.json:
    with open(args.json, "w", encoding="utf-8") as file:
      json.dump(figures, file)


if __name__ == "__main__":
  main()
