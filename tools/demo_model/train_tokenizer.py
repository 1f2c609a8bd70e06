"""Trains the demo model's tokenizer: byte-level BPE with the pre-tokenizer, normalizer and decoder of Qwen2.

  python3 train_tokenizer.py --out ../../deploy/demo_model

1,021 tokens from generated text, then the three special tokens as ids 1021..1023: 1,024 in all.
"""

import argparse
import json
import os
import random
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import generate_text

VOCABULARY = 1024
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SEED = 7
DOCUMENTS = 20000

# The expression of Qwen2's own tokenizer.json: every digit is a token of its own.
QWEN2_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                 r"|\s+(?!\S)|\s+")

CHAT_TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
                 "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
                 "{% endif %}")


def build_tokenizer() -> Tokenizer:
  tokenizer = Tokenizer(models.BPE())
  tokenizer.normalizer = normalizers.NFC()
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
      pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
  ])
  tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
  tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
  trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - len(SPECIAL_TOKENS), min_frequency=2, show_progress=False,
                                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
  rng = random.Random(SEED)
  texts = (re.sub(r"<\|\w+\|>", "", generate_text.make_document(rng)) for _ in range(DOCUMENTS))
  tokenizer.train_from_iterator(texts, trainer)
  tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL_TOKENS])
  if tokenizer.get_vocab_size() != VOCABULARY:
    raise SystemExit(f"the text gives {tokenizer.get_vocab_size()} tokens, want {VOCABULARY}; use more documents")
  return tokenizer


def tokenizer_config(tokenizer: Tokenizer) -> dict:
  added = {str(tokenizer.token_to_id(t)): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                                           "single_word": False, "special": True} for t in SPECIAL_TOKENS}
  return {"add_prefix_space": False, "added_tokens_decoder": added,
          "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": None,
          "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>",
          "errors": "replace", "model_max_length": 2048, "pad_token": "<|endoftext|>", "split_special_tokens": False,
          "tokenizer_class": "Qwen2Tokenizer", "unk_token": None}


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", required=True, help="the model folder")
  args = parser.parse_args()
  os.makedirs(args.out, exist_ok=True)
  tokenizer = build_tokenizer()
  tokenizer.save(os.path.join(args.out, "tokenizer.json"))
  with open(os.path.join(args.out, "tokenizer_config.json"), "w", encoding="utf-8") as file:
    json.dump(tokenizer_config(tokenizer), file, indent=2)
    file.write("\n")


if __name__ == "__main__":
  main()
