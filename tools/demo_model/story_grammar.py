"""Short stories from a grammar. A story is a list of sentences plus the facts that questions can ask about.

Every choice is skewed (Zipf): the first entry of a list is the most likely one. A model of such text has a clear
favourite at most positions, which is what a comparison of top tokens between number formats needs.
"""

import dataclasses
import random

GIRLS = ["Mia", "Lily", "Anna", "Ella", "Rosa", "Nina", "Clara", "Ivy", "Zoe"]
BOYS = ["Tom", "Ben", "Max", "Leo", "Sam", "Finn", "Oscar", "Jack", "Hugo"]
ANIMALS = ["fox", "rabbit", "bear", "cat", "dog", "mouse", "bird", "frog", "duck", "owl", "hedgehog", "squirrel",
           "turtle", "goat", "fish"]
ANIMAL_NAMES = ["Rusty", "Pip", "Bruno", "Luna", "Coco", "Milo", "Daisy", "Hazel", "Toby", "Poppy"]
SIZES = ["little", "small", "young", "brave", "clever", "kind"]
PLACES = ["forest", "river", "park", "garden", "beach", "market", "hill", "farm", "lake", "library", "castle", "school"]
COLORS = ["red", "blue", "green", "yellow", "golden", "white", "purple"]
TOYS = ["ball", "kite", "hat", "boat", "key", "scarf", "drum", "book", "lamp", "bell", "basket", "shell"]
FOODS = ["apples", "cookies", "berries", "nuts", "cakes", "pears", "carrots"]
HIDING = ["under a tree", "behind a rock", "in the tall grass", "under the bench", "next to the path", "in an old box"]
SKILLS = ["swim", "sing", "climb", "dance", "paint", "fly a kite", "ride a bike", "bake bread"]
MOODS = ["happy", "proud", "calm", "glad"]
WEATHERS = ["sunny", "warm", "windy", "cloudy", "cold"]


def pick(rng: random.Random, choices, power: float = 1.2):
  """One of `choices`; entry i (from 0) has a probability proportional to (i + 1) ** -power."""
  weights = [(i + 1) ** -power for i in range(len(choices))]
  return rng.choices(choices, weights)[0]


@dataclasses.dataclass
class Character:
  """Who the story is about: "Mia, a little girl" or "Rusty, a small fox"."""
  name: str
  kind: str       # "girl", "boy" or an animal
  size: str

  @property
  def he(self):
    return "she" if self.kind == "girl" or self.name in ("Luna", "Daisy", "Hazel", "Poppy", "Coco") else "he"

  @property
  def his(self):
    return "her" if self.he == "she" else "his"

  @property
  def him(self):
    return "her" if self.he == "she" else "him"

  @property
  def full(self):
    return f"a {self.size} {self.kind}"


@dataclasses.dataclass
class Story:
  """Text and the questions it answers, as (question, answer) pairs."""
  text: str
  questions: list
  hero: Character
  toy: str


def article(word: str) -> str:
  return ("an " if word[0] in "aeiou" else "a ") + word


def make_character(rng, kind=None, name=None, other=None) -> Character:
  """A character that shares neither name nor kind of animal with `other`."""
  while True:
    chosen = kind or (pick(rng, ["girl", "boy"], 0.6) if rng.random() < 0.45 else pick(rng, ANIMALS))
    if name in GIRLS:
      chosen = "girl"
    elif name in BOYS:
      chosen = "boy"
    names = {"girl": GIRLS, "boy": BOYS}.get(chosen, ANIMAL_NAMES)
    character = Character(name or pick(rng, names), chosen, pick(rng, SIZES))
    if other is None or (other.name != character.name and (other.kind != character.kind or chosen in ("girl", "boy"))):
      return character


def _opening(rng, hero, place):
  home = pick(rng, [f"lived near the {place}", f"lived in a small house by the {place}", f"loved the {place}"])
  return pick(rng, [
      f"Once upon a time, there was {hero.full} named {hero.name}.",
      f"Once there was {hero.full} named {hero.name}.",
      f"Long ago, there lived {hero.full} named {hero.name}.",
  ]) + f" {hero.name} {home}."


def _ending(rng, hero, friend, mood):
  return pick(rng, [
      f"{hero.name} and {friend.name} were very {mood}, and they became good friends.",
      f"From that day on, {hero.name} and {friend.name} were best friends. {hero.name} was very {mood}.",
      f"In the evening, {hero.name} went home and felt very {mood}.",
      f"{hero.name} smiled all the way home and felt very {mood}.",
  ])


def _day(rng, weather):
  return pick(rng, [f"One {weather} day,", f"One {weather} morning,", f"On a {weather} afternoon,"])


def _meet(rng, friend):
  return f"{friend.full} named {friend.name}"


def _lost(rng, h, f, place, color, toy, weather, mood):
  where = pick(rng, HIDING)
  text = [
      f"{_day(rng, weather)} {h.name} went to the {place} to play with {h.his} {color} {toy}.",
      pick(rng, [f"But soon the {toy} was gone.", f"But then {h.he} lost the {toy}.",
                 f"When {h.he} looked around, the {toy} was gone."]),
      pick(rng, [f"{h.name} was very sad.", f"{h.name} began to cry.", f'"Oh no!" said {h.name}.']),
      f"Then {h.he} met {_meet(rng, f)}.",
      f'"Do not worry," said {f.name}. "I will help you look for it."',
      pick(rng, ["They looked everywhere.", "They looked up and down.", "They looked for a long time."]),
      f"At last, {f.name} found the {color} {toy} {where}.",
      f'"Thank you, {f.name}!" said {h.name}.',
  ]
  questions = [(f"What did {h.name} lose?", f"{h.name} lost {article(color)} {toy}."),
               (f"Where was the {toy}?", f"The {toy} was {where}."),
               (f"Who found the {toy}?", f"{f.name} found the {toy}."),
               (f"What color was the {toy}?", f"The {toy} was {color}.")]
  return text, questions


def _found(rng, h, f, place, color, toy, weather, mood):
  where = pick(rng, HIDING)
  text = [
      f"{_day(rng, weather)} {h.name} went for a walk to the {place}.",
      f"There {h.he} found {article(color)} {toy} {where}.",
      pick(rng, [f'"Whose {toy} is this?" {h.he} asked.', f'"What a nice {toy}!" said {h.name}.']),
      f"{h.name} took the {toy} and asked everyone at the {place}.",
      f"Soon {h.he} met {_meet(rng, f)}.",
      f'"That is my {toy}!" said {f.name}. "I looked for it all day."',
      f"{h.name} gave the {toy} back to {f.name}.",
      pick(rng, [f'"You are very kind," said {f.name}.', f'"Thank you so much," said {f.name}.']),
  ]
  questions = [(f"What did {h.name} find?", f"{h.name} found {article(color)} {toy}."),
               (f"Where was the {toy}?", f"The {toy} was {where}."),
               (f"Whose {toy} was it?", f"It was the {toy} of {f.name}."),
               (f"What color was the {toy}?", f"The {toy} was {color}.")]
  return text, questions


def _shared(rng, h, f, place, color, toy, weather, mood):
  food = pick(rng, FOODS)
  count = pick(rng, [6, 5, 8, 4, 7, 9, 10], 0.8)
  given = rng.choices(range(1, count), [0.75 ** i for i in range(count - 1)])[0]
  text = [
      f"{_day(rng, weather)} {h.name} had {count} {food} in {article(color)} basket.",
      f"{h.he.capitalize()} went to the {place} to eat them.",
      f"At the {place} {h.he} met {_meet(rng, f)}.",
      pick(rng, [f'"I am so hungry," said {f.name}.', f"{f.name} had nothing to eat and was sad."]),
      f"{h.name} gave {given} of the {food} to {f.name}.",
      f"Now {h.name} had {count - given} left, and that was enough.",
      pick(rng, ["They sat down and ate together.", "They ate together and told jokes."]),
  ]
  questions = [(f"How many {food} did {h.name} have at first?", f"{h.name} had {count} {food} at first."),
               (f"How many {food} did {h.name} give to {f.name}?", f"{h.name} gave {given} of the {food} to {f.name}."),
               (f"Who was hungry?", f"{f.name} was hungry."),
               (f"What color was the basket?", f"The basket was {color}.")]
  return text, questions


def _learned(rng, h, f, place, color, toy, weather, mood):
  skill = pick(rng, SKILLS)
  text = [
      f"{h.name} wanted to learn how to {skill}.",
      f"{_day(rng, weather)} {h.he} went to the {place} and tried.",
      pick(rng, [f"But it was hard, and {h.he} could not do it.", f"{h.he.capitalize()} tried and tried, but it was too hard."]),
      f"Then {h.he} met {_meet(rng, f)}.",
      f'"I can show you how to {skill}," said {f.name}.',
      pick(rng, ["They practiced every day.", "They practiced all day long."]),
      f"At last, {h.name} could {skill}!",
      f"To say thank you, {h.name} gave {f.name} {article(color)} {toy}.",
  ]
  questions = [(f"What did {h.name} want to learn?", f"{h.name} wanted to learn how to {skill}."),
               (f"Who helped {h.name}?", f"{f.name} helped {h.name}."),
               (f"What did {h.name} give to {f.name}?", f"{h.name} gave {f.name} {article(color)} {toy}.")]
  return text, questions


def _gift(rng, h, f, place, color, toy, weather, mood):
  text = [
      f"{h.name} had a good friend, {_meet(rng, f)}.",
      f"It was the birthday of {f.name}, and {h.name} wanted to give {f.him} a gift.",
      f"{_day(rng, weather)} {h.he} went to the {place} to look for one.",
      f"There {h.he} saw {article(color)} {toy}.",
      pick(rng, [f'"This is the best gift for {f.name}!" said {h.name}.', f'"{f.name} will love this {toy}," said {h.name}.']),
      f"{h.name} took the {toy} to the house of {f.name}.",
      f'"Happy birthday, {f.name}!" {h.he} said.',
      pick(rng, [f"{f.name} jumped with joy.", f"{f.name} gave {h.him} a big hug."]),
  ]
  questions = [(f"What was the gift for {f.name}?", f"The gift was {article(color)} {toy}."),
               (f"Whose birthday was it?", f"It was the birthday of {f.name}."),
               (f"What color was the {toy}?", f"The {toy} was {color}.")]
  return text, questions


def _storm(rng, h, f, place, color, toy, weather, mood):
  food = pick(rng, FOODS)
  text = [
      f"{_day(rng, weather)} {h.name} walked to the {place} with {article(color)} {toy}.",
      pick(rng, ["Suddenly, dark clouds came and it began to rain.", "Suddenly, there was a big storm."]),
      pick(rng, [f"{h.name} was wet and cold.", f"{h.name} was afraid and did not know where to go."]),
      f"Then {_meet(rng, f)} opened a door.",
      f'"Come in, {h.name}!" said {f.name}. "It is warm in here."',
      f"They sat by the fire and ate {food}.",
      f"When the rain stopped, {h.name} gave {f.name} the {toy} to say thank you.",
  ]
  questions = [(f"Who opened the door?", f"{f.name} opened the door."),
               (f"What did they eat?", f"They ate {food}."),
               (f"What did {h.name} give to {f.name}?", f"{h.name} gave {f.name} {article(color)} {toy}.")]
  return text, questions


PLOTS = [_lost, _found, _shared, _gift, _learned, _storm]


def make_story(rng: random.Random, kind=None, name=None, toy=None) -> Story:
  """A story; `kind`, `name` and `toy` fix the hero's kind or name and the object, otherwise they are drawn."""
  hero = make_character(rng, kind, name)
  friend = make_character(rng, other=hero)
  place, color, weather, mood = pick(rng, PLACES), pick(rng, COLORS), pick(rng, WEATHERS), pick(rng, MOODS)
  plot = pick(rng, [p for p in PLOTS if toy is None or p is not _shared], 0.5)
  toy = toy or pick(rng, TOYS)
  body, questions = plot(rng, hero, friend, place, color, toy, weather, mood)
  text = " ".join([_opening(rng, hero, pick(rng, PLACES)), *body, _ending(rng, hero, friend, mood)])
  questions = questions + [
      (f"Where did {hero.name} go?", f"{hero.name} went to the {place}."),
      (f"Who did {hero.name} meet?", f"{hero.name} met {friend.name}, {friend.full}."),
      (f"How did {hero.name} feel at the end?", f"{hero.name} felt very {mood}."),
      (f"Who is {hero.name}?", f"{hero.name} is {hero.full}."),
  ]
  return Story(text, questions, hero, toy)
