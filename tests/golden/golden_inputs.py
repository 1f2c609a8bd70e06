"""Prompts, strings and conversations that make_golden.py runs. More prompts than needed: near ties are passed over."""

PLAIN_PROMPTS = [
    "Once upon a time, there was a", "Once there was a little girl named Mia.", "Long ago, there lived a clever fox",
    "Once upon a time, there was a brave bear named Bruno. Bruno loved the", "One sunny day, Tom went to the",
    "Once there was a small mouse named Pip. Pip wanted to learn how to", "The", "Mia was very sad.",
    "Once upon a time, there was a kind rabbit named Hazel. Hazel lived near the river. One windy day,",
    "Long ago, there lived a young turtle named", "Once", "One cold morning, Luna walked to the hill with a blue",
    "Once upon a time, there was a little boy named Leo. Leo had a good friend,", '"Oh no!" said', "Then he met a",
    "Once there was a clever owl named Luna. Luna had 7 berries in a red basket. She gave 3 of the",
    "Suddenly, dark clouds came and", '"I am so hungry," said', "At last, Rusty found the",
    "Long ago, there lived a small duck named Daisy. Daisy loved the lake. One sunny morning, Daisy went for a walk",
    "In the evening, Ella went home", "It was the birthday of", "Hello", "17 plus 25 is", "3, 4, 5,",
    "Once upon a time, there was a girl named Zoe and she lost her key.", "Rusty and Pip were very",
    "Once there was a goat", "There Tom saw a purple", "They looked everywhere.", "Now Sam had 4 left,",
]

CHAT_PROMPTS = [
    "Tell me a story about a fox.", "What is 17 plus 25?", "What is 42 minus 19?", "Which is bigger, 17 or 25?",
    "Count from 5 to 12.", "What number comes after 39?", "Is 7 even or odd?", "What day comes after Monday?",
    "What is the capital of France?", "Who are you?", "Hello!", "Tell me a story about Mia.",
    "Write a story about a bear and a key.", "Can you tell me a short story about a cat?", "What is 8 + 46?",
    "Add 33 and 29.", "Take 15 from 40.", "Which is smaller, 31 or 13?", "What color is the sky?",
    "How many legs does a spider have?", "What does a cow say?", "What month comes before May?", "Thank you!",
    "Tell me a story about an owl and a lamp.", "What is the opposite of hot?", "Please tell me a story about a dog.",
    "What is 50 plus 50?", "What is 0 plus 0?", "What number comes before 100?", "Tell me a story.",
    "Once there was a little girl named Anna. Anna loved the park. One warm day, Anna went for a walk to the river. There "
    "she found a green hat under the bench. \"Whose hat is this?\" she asked. Soon she met a small frog named Milo. \"That "
    "is my hat!\" said Milo. Anna gave the hat back to Milo.\n\nWhat color was the hat?",
]

STRINGS = [
    "", " ", "  ", "   a", "a   ", "\n", "\n\n", " \n", "\t", "a\tb", "a\r\nb", "\r\n\r\n", "a \n b", "Hello, world!",
    "Once upon a time, there was a little fox named Rusty.", "What is 17 plus 25?", "1234567890", "3.14159", "1 2  3   4",
    "17+25=42", "can't won't I'm you're they've she'd it'll", "CAN'T I'M", "it's 5 o'clock", "don\u2019t", "...", "?!?!",
    "a,b;c:d", "(a) [b] {c}", "x = y * z - 1;", "http://example.com/a?b=c&d=e", "snake_case camelCase PascalCase",
    "na\u00efve caf\u00e9", "nai\u0308ve cafe\u0301", "\u00c5ngstr\u00f6m \u212bngstr\u00f6m", "\u00fc u\u0308",
    "\u4f60\u597d\uff0c\u4e16\u754c", "\u3053\u3093\u306b\u3061\u306f", "\ud55c\uad6d\uc5b4", "\u1112\u1161\u11ab",
    "\u041f\u0440\u0438\u0432\u0435\u0442", "\u0645\u0631\u062d\u0628\u0627", "\u05e9\u05dc\u05d5\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947", "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea",
    "a\U0001f600b \u2764\ufe0f", "\u00a0a\u00a0b", "\u3000x\u2003y", "\u200b", "\ufeffstart", "\u0000", "a\u0007b\u007f",
    "\u00bd \u00b2 \u2167 \u0663\u0664", "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n", "a<|im_end|>b",
    "<|im_start|><|im_start|>", "<|im_start", "<|IM_END|>", "< |im_end|>", " <|im_end|> ", "<|im_end|>\n\n<|im_end|>",
    "The quick brown fox jumps over the lazy dog. " * 3, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "\n \n  \n   x",
]

CONVERSATIONS = [
    [{"role": "user", "content": "Hello!"}],
    [{"role": "system", "content": "You are Shoal, a small helpful assistant."}, {"role": "user", "content": "Hi!"}],
    [{"role": "user", "content": "What is 17 plus 25?"}, {"role": "assistant", "content": "17 plus 25 is 42."},
     {"role": "user", "content": "What is 42 minus 17?"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": ""}],
    [{"role": "user", "content": "  spaces  around  \n\n"}, {"role": "assistant", "content": "\n"},
     {"role": "user", "content": "caf\u00e9 \U0001f600 \u4f60\u597d {{ not a template }} {% nor this %}"}],
    [{"role": "user", "content": "What does <|im_end|> mean?"}],
]
