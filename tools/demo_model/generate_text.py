"""Generates the demo model's text: plain stories and chats whose answers can be checked.

  python3 generate_text.py --documents 40000 --seed 1 --out train.txt
  python3 generate_text.py --documents 230 --seed 999983 --held-out --out ../../deploy/demo_model/heldout.txt

A file holds documents separated by a line `%%`. A document is the exact text to tokenize, with the special tokens written
out (`<|im_start|>`, `<|im_end|>`, `<|endoftext|>`) and `<|endoftext|>` as its last token. Same seed, same file.
"""

import argparse
import dataclasses
import random

import story_grammar as grammar

END_OF_TEXT = "<|endoftext|>"
SEPARATOR = "\n%%\n"
NUMBER_MAX = 50

FACTS = [
    ("What color is grass?", "Grass is green."), ("What color is the sky?", "The sky is blue."),
    ("What color is snow?", "Snow is white."), ("What color is a banana?", "A banana is yellow."),
    ("What color is coal?", "Coal is black."), ("What color is a carrot?", "A carrot is orange."),
    ("How many legs does a dog have?", "A dog has 4 legs."), ("How many legs does a bird have?", "A bird has 2 legs."),
    ("How many legs does a spider have?", "A spider has 8 legs."), ("How many legs does an ant have?", "An ant has 6 legs."),
    ("How many days are in a week?", "There are 7 days in a week."),
    ("How many months are in a year?", "There are 12 months in a year."),
    ("How many hours are in a day?", "There are 24 hours in a day."),
    ("How many minutes are in an hour?", "There are 60 minutes in an hour."),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("What is the capital of Spain?", "The capital of Spain is Madrid."),
    ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
    ("What is the capital of Germany?", "The capital of Germany is Berlin."),
    ("What is the capital of England?", "The capital of England is London."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
    ("What is the opposite of big?", "The opposite of big is small."),
    ("What is the opposite of day?", "The opposite of day is night."),
    ("What is the opposite of happy?", "The opposite of happy is sad."),
    ("What is the opposite of up?", "The opposite of up is down."),
    ("What is the opposite of fast?", "The opposite of fast is slow."),
    ("What does a cow say?", "A cow says moo."), ("What does a cat say?", "A cat says meow."),
    ("What does a dog say?", "A dog says woof."), ("What does a duck say?", "A duck says quack."),
    ("What does a cow eat?", "A cow eats grass."), ("What does a rabbit eat?", "A rabbit eats carrots."),
    ("Where do fish live?", "Fish live in the water."), ("Where do birds live?", "Birds live in a nest."),
    ("Where does a bear sleep?", "A bear sleeps in a cave."),
    ("What do bees make?", "Bees make honey."), ("What gives us light in the day?", "The sun gives us light in the day."),
    ("What do we see in the sky at night?", "At night we see the moon and the stars in the sky."),
    ("What is ice made of?", "Ice is made of water."), ("Who are you?", "I am Shoal, a small language model."),
    ("What is your name?", "My name is Shoal."),
    ("What can you do?", "I can tell short stories, add numbers and answer simple questions."),
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December"]


@dataclasses.dataclass(frozen=True)
class Mix:
  """What is drawn how often, as cumulative probabilities; the last kind has the rest."""
  documents: tuple     # plain story, story on request, questions about a story; rest: short questions
  short_turns: tuple   # sum, difference, comparison, number after or before, counting, even or odd, calendar; rest: facts


MIX = Mix((0.12, 0.25, 0.57), (0.30, 0.55, 0.71, 0.76, 0.84, 0.86, 0.92))
# More of what is hard to learn: for the end of the training.
PRACTICE_MIX = Mix((0.02, 0.07, 0.52), (0.17, 0.52, 0.70, 0.73, 0.92, 0.93, 0.96))
SYSTEM = "You are Shoal, a small helpful assistant."


def is_held_out(a: int, b: int) -> bool:
  """True for the one in seventeen number pairs that training text never asks a sum or difference of."""
  return (a * 53 + b * 31) % 17 == 5


def number(rng: random.Random, high: int = NUMBER_MAX) -> int:
  """A number 0..high, half of the draws in favour of small ones."""
  if rng.random() < 0.5:
    return rng.randint(0, high)
  return grammar.pick(rng, range(high + 1), 0.6)


def sum_question(rng, a, b):
  form = grammar.pick(rng, ["What is {a} plus {b}?", "What is {a} + {b}?", "Add {a} and {b}."])
  return form.format(a=a, b=b), f"{a} plus {b} is {a + b}."


def difference_question(rng, a, b):
  a, b = max(a, b), min(a, b)
  form = grammar.pick(rng, ["What is {a} minus {b}?", "What is {a} - {b}?", "Take {b} from {a}."])
  return form.format(a=a, b=b), f"{a} minus {b} is {a - b}."


def comparison_question(rng, a, b):
  if a == b:
    b = a + 1
  if rng.random() < 0.65:
    return f"Which is bigger, {a} or {b}?", f"{max(a, b)} is bigger than {min(a, b)}."
  return f"Which is smaller, {a} or {b}?", f"{min(a, b)} is smaller than {max(a, b)}."


def neighbour_question(rng, a):
  if rng.random() < 0.6:
    return f"What number comes after {a}?", f"{a + 1} comes after {a}."
  return f"What number comes before {a + 1}?", f"{a} comes before {a + 1}."


def counting_question(rng, a):
  b = a + grammar.pick(rng, [5, 4, 3, 6, 8, 9], 0.7)
  return f"Count from {a} to {b}.", ", ".join(str(i) for i in range(a, b + 1)) + "."


def parity_question(rng, a):
  return f"Is {a} even or odd?", f"{a} is {'odd' if a % 2 else 'even'}."


def calendar_question(rng):
  names, word = (DAYS, "day") if rng.random() < 0.6 else (MONTHS, "month")
  i = rng.randrange(len(names))
  if rng.random() < 0.65:
    return f"What {word} comes after {names[i]}?", f"{names[(i + 1) % len(names)]} comes after {names[i]}."
  return f"What {word} comes before {names[i]}?", f"{names[i - 1]} comes before {names[i]}."


def greeting(rng):
  hello = grammar.pick(rng, ["Hello!", "Hi!", "Good morning!", "Hello, how are you?"])
  return hello, {"Hello, how are you?": "I am fine, thank you. How can I help you?",
                 "Good morning!": "Good morning! How can I help you?"}.get(hello, "Hello! How can I help you?")


def thanks(rng):
  return grammar.pick(rng, ["Thank you!", "Thanks!", "Goodbye!"]), "You are welcome. Have a nice day!"


def story_request(rng):
  """A wish for a story, most of them naming the hero or an object, and the story."""
  draw = rng.random()
  verb = grammar.pick(rng, ["Tell me a story", "Write a story", "Please tell me a story", "Can you tell me a short story"])
  stop = "?" if verb.startswith("Can") else "."
  if draw < 0.55:
    kind = grammar.pick(rng, grammar.ANIMALS + ["girl", "boy"], 0.7)
    return f"{verb} about {grammar.article(kind)}{stop}", grammar.make_story(rng, kind=kind).text
  if draw < 0.75:
    name = grammar.pick(rng, rng.choice([grammar.GIRLS, grammar.BOYS]))
    return f"{verb} about {name}{stop}", grammar.make_story(rng, name=name).text
  if draw < 0.92:
    kind, toy = grammar.pick(rng, grammar.ANIMALS, 0.8), grammar.pick(rng, grammar.TOYS)
    return (f"{verb} about {grammar.article(kind)} and {grammar.article(toy)}{stop}",
            grammar.make_story(rng, kind=kind, toy=toy).text)
  return f"{verb}{stop}", grammar.make_story(rng).text


def story_questions(rng):
  """A story with its first question in one message, then more questions about it."""
  story = grammar.make_story(rng)
  questions = rng.sample(story.questions, rng.randint(3, 7))
  turns = [(f"{story.text}\n\n{questions[0][0]}", questions[0][1])]
  return turns + questions[1:]


def number_pair(rng, held_out_allowed):
  while True:
    a, b = number(rng), number(rng)
    if held_out_allowed or not (is_held_out(a, b) or is_held_out(b, a)):
      return a, b


def short_turn(rng, held_out_allowed, mix):
  """One question with a checkable answer."""
  draw, (sums, differences, comparisons, neighbours, counts, parities, calendar) = rng.random(), mix.short_turns
  if draw < sums:
    return sum_question(rng, *number_pair(rng, held_out_allowed))
  if draw < differences:
    return difference_question(rng, *number_pair(rng, held_out_allowed))
  if draw < comparisons:
    return comparison_question(rng, number(rng), number(rng))
  if draw < neighbours:
    return neighbour_question(rng, number(rng, 2 * NUMBER_MAX))
  if draw < counts:
    return counting_question(rng, number(rng, 2 * NUMBER_MAX))
  if draw < parities:
    return parity_question(rng, number(rng))
  if draw < calendar:
    return calendar_question(rng)
  return grammar.pick(rng, FACTS, 0.4)


def render_chat(turns, system=None) -> str:
  """The chat template's rendering of (question, answer) turns."""
  text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
  for question, answer in turns:
    text += f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
  return text


def make_document(rng: random.Random, held_out_allowed: bool = False, mix: Mix = MIX) -> str:
  """One document, ended by <|endoftext|>."""
  draw, (plain, request, asked) = rng.random(), mix.documents
  if draw < plain:
    return grammar.make_story(rng).text + END_OF_TEXT
  system = SYSTEM if rng.random() < 0.15 else None
  if draw < request:
    turns = [story_request(rng)]
  elif draw < asked:
    turns = story_questions(rng)
  else:
    turns = [short_turn(rng, held_out_allowed, mix) for _ in range(rng.randint(3, 8))]
    if rng.random() < 0.1:
      turns.insert(rng.randrange(len(turns) + 1), story_request(rng))
  if rng.random() < 0.15:
    turns.insert(0, greeting(rng))
  if rng.random() < 0.1:
    turns.append(thanks(rng))
  return render_chat(turns, system) + END_OF_TEXT


def read_documents(path: str) -> list:
  """The documents of a file that write_documents wrote."""
  with open(path, encoding="utf-8") as file:
    return file.read().removesuffix("\n").split(SEPARATOR)


def write_documents(path: str, documents: list) -> None:
  with open(path, "w", encoding="utf-8") as file:
    file.write(SEPARATOR.join(documents) + "\n")


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--documents", type=int, required=True)
  parser.add_argument("--seed", type=int, required=True)
  parser.add_argument("--out", required=True)
  parser.add_argument("--held-out", action="store_true", help="also use the number pairs kept out of training")
  args = parser.parse_args()
  rng = random.Random(args.seed)
  write_documents(args.out, [make_document(rng, args.held_out) for _ in range(args.documents)])


if __name__ == "__main__":
  main()
