"""Questions of many kinds: templates to be filled with words, and tasks for programmers."""

from __future__ import annotations

import json
import random
from pathlib import Path

from training.smollm2.words import Words

ABOUT_THINGS = (
    "What is {thing}?", "What is {a_thing}?", "Explain {thing} in simple terms.",
    "Tell me about {thing}.", "Write a short story about {a_thing}.", "Write a poem about {thing}.",
    "List three facts about {thing}.", "Why is {thing} important?", "How does {a_thing} work?",
    "Can you give me some advice on {thing}?", "Describe {a_thing} to a child.",
    "What is the history of {thing}?", "What are the advantages and disadvantages of {thing}?",
    "What is the difference between {thing} and {thing2}?", "Compare {thing} and {thing2}.",
    "Write an email to my boss about {thing}.", "Give me five ideas for a project about {thing}.",
    "How is {thing} used in everyday life?", "Write a paragraph about {thing}.",
    "What should I know about {thing}?", "Define {thing}.", "Who invented {thing}?",
    "How can I learn more about {thing}?", "What are some examples of {thing}?",
    "Summarize the main ideas behind {thing}.", "Write a dialogue about {thing} and {thing2}.",
    "I have a question about {thing}. Where do I start?", "Give me a recipe with {thing}.",
    "Write a headline and an introduction for an article about {thing}.",
    "How do {thing} and {thing2} relate to each other?", "Is {thing} good for my health?",
    "What would happen without {thing}?", "Tell me a joke about {a_thing}.",
    "Write a product description for {a_thing}.", "Create a lesson plan about {thing}.",
    "Name some famous {thing}.", "What causes {thing}?", "How do I choose {a_thing}?",
    "Write a haiku about {thing}.", "Explain the role of {thing} in science.",
    "Why do people like {thing}?", "Make a checklist for {thing}.",
)  # fmt: skip
ABOUT_ACTS = (
    "How do I {act}?", "How can I learn to {act}?", "What does it mean to {act}?",
    "Give me tips to {act} better.", "Why do people {act}?", "Is it a good idea to {act}?",
    "What do I need to {act} {a_thing}?", "Explain step by step how to {act} {a_thing}.",
    "Use the word '{act}' in three sentences.",
    "I want to {act} but I have no time. What can I do?",
)  # fmt: skip
ABOUT_PEOPLE = (
    "What does {a_person} do?", "How do I become {a_person}?", "Write a story about {a_person}.",
    "Write a letter from {a_person} to a friend.", "What skills does {a_person} need?",
    "Interview {a_person} about {thing}.", "Act as {a_person} and tell me about {thing}.",
)  # fmt: skip
ABOUT_PLACES = (
    "Where is {place}?", "Tell me about {place}.", "What can I visit in {place}?",
    "Plan a three day trip to {place}.", "What is the weather like in {place}?",
    "What is {place} known for?", "What is the history of {place}?",
    "How do I get from {place} to {place2}?", "Write a travel blog post about {place}.",
    "What food is typical of {place}?", "What is the capital of {place}?",
)  # fmt: skip
ABOUT_SENTENCES = (
    'Rewrite this sentence: "{sentence}"', 'Correct the grammar: "{sentence}"',
    'Translate into French: "{sentence}"', 'What does this mean: "{sentence}"?',
    'Continue the story: "{sentence}"', 'Is this sentence positive or negative? "{sentence}"',
    'Make this more formal: "{sentence}"', 'Make this shorter: "{sentence}"',
    'Write a reply to this message: "{sentence}"', 'Translate into Spanish: "{sentence}"',
    'Turn this into a question: "{sentence}"', 'Who might say this: "{sentence}"?',
)  # fmt: skip
# What people ask an assistant, without the topics of prompts.json of wisp/models/smollm2.
_TOPICS = json.loads(Path(__file__).with_name("topics.json").read_text())
ACTIVITIES, SUBJECTS = _TOPICS["activities"], _TOPICS["subjects"]
ABOUT_ACTIVITIES = (
    "How do I {activity}?", "How can I {activity}?", "What is the best way to {activity}?",
    "Give me five tips to {activity}.", "I want to {activity}. Where should I begin?",
    "What do I need to {activity}?", "Explain step by step how to {activity}.",
    "What mistakes should I avoid when I {activity}?", "How long does it take to {activity}?",
    "Write a short guide on how to {activity}.", "Is it hard to {activity}?",
    "Can you help me to {activity}?", "How should I {activity} if I am a beginner?",
)  # fmt: skip
ABOUT_SUBJECTS = (
    "What is {subject}?", "Explain {subject} to a ten year old.", "Tell me about {subject}.",
    "Why is {subject} important?", "How does {subject} work?",
    "What are the main facts about {subject}?",
    "Describe {subject} in a few sentences.", "What should everyone know about {subject}?",
    "Write an essay about {subject}.", "Who or what is {subject}?", "Summarize {subject}.",
    "What is the difference between {subject} and {subject2}?",
    "Give me three reasons to study {subject}.",
    "What are the effects of {subject}?", "What causes {subject}?", "When did {subject} begin?",
    "Write a poem about {subject}.", "Tell me a story about {subject}.",
    "What are common misunderstandings about {subject}?", "How did {subject} change the world?",
    "Make a quiz about {subject}.", "Why do people care about {subject}?",
)  # fmt: skip
NUMBERS = (
    "What is {n} + {m}?", "What is {n} times {m}?", "What is {n} minus {m}?",
    "Is {n} a prime number?", "Convert {n} kilometers to miles.", "What is {n} percent of {m}?",
    "If I have {n} {thing}s and give away {m}, how many are left?", "Write {n} in words.",
    "What is the square root of {n}?", "Count from {n} to {m}.",
)  # fmt: skip
# What comes after a first answer.
FOLLOW_UPS = (
    "Can you explain that again in other words?", "Why?", "Give me an example.", "Thank you!",
    "Tell me more.", "Make it shorter.", "What else should I know?", "Are you sure?",
    "Summarize that in one sentence.", "How does that work?", "Can you make a list of it?",
    "Now write it for a child.", "What would be an alternative?", "Write that as a poem.",
    "Can you show me some code?", "Add comments to the code.", "Now write tests for it.",
    "Could you translate that into German?", "What are the risks?", "Who can help me with that?",
)  # fmt: skip
SYSTEMS = (
    "You are a helpful assistant.", "You are a friendly teacher.", "You are a concise assistant.",
    "You are an expert programmer.", "You answer in simple words.", "",
)  # fmt: skip

LANGUAGES = (
    *("Python",) * 14, "JavaScript", "Java", "C", "C++", "SQL", "Bash", "Rust", "Go",
    "TypeScript", "HTML",
)  # fmt: skip
ACTIONS = (
    "counts the {items} in {coll}", "removes duplicate {items} from {coll}",
    "finds the longest of the {items} in {coll}", "finds the largest of the {items} in {coll}",
    "sorts {coll} of {items}", "reverses {coll} of {items}", "sums the {items} in {coll}",
    "checks whether {coll} contains only {items}", "filters the {items} out of {coll}",
    "groups {coll} of {items} by their first letter", "merges two {coll2} of {items}",
    "splits {coll} of {items} into chunks of size {n}", "prints every {n}th of the {items}",
    "rotates {coll} of {items} by {n} places", "converts {coll} of {items} to a string",
    "returns the {n} smallest {items} of {coll}", "reads {items} from a file",
    "writes {coll} of {items} to a CSV file", "shuffles {coll} of {items}",
    "computes the average of the {items} in {coll}", "finds the {items} that two {coll2} share",
    "generates all permutations of {coll} of {items}", "implements a binary search for {items}",
    "implements a stack of {items}", "implements a queue of {items}", "caches {items} by name",
    "validates {items}", "parses {items} from a string", "prints {coll} of {items} as a table",
    "returns the most frequent of the {items} in {coll}", "flattens a nested list of {items}",
    "finds pairs of {items} that add up to {n}", "multiplies the {items} in {coll}",
    "replaces all {items} greater than {n} in {coll}", "checks whether {coll} of {items} is sorted",
    "downloads {items} from a URL", "draws {items} on the screen", "encrypts {items} with a key",
)  # fmt: skip
ITEMS = (
    "numbers", "words", "strings", "integers", "vowels", "letters", "dates", "names", "floats",
    "tuples", "characters", "even numbers", "odd numbers", "prime numbers", "digits", "emails",
    "lines", "dictionaries", "points", "matrices", "users", "prices", "records", "booleans",
    "palindromes", "negative numbers", "keys", "values", "nodes", "squares", "spaces", "files",
)  # fmt: skip
COLLECTIONS = (
    "a list", "a string", "an array", "a dictionary", "a set", "a text file", "a linked list",
    "a tuple", "a matrix", "a binary tree", "a queue", "a generator",
)  # fmt: skip
PLURALS = ("lists", "arrays", "dictionaries", "sets", "strings", "files")
CODE = (
    "Write a {language} function that {action}.", "Write {language} code that {action}.",
    "Write a {language} program that {action}.",
    "How do I write a function in {language} that {action}?",
    "Implement a function that {action} in {language}.", "Show me {language} code which {action}.",
    "Create a class in {language} that {action}.",
    "Explain how to write {language} code that {action}.",
    "Write a unit test for a {language} function that {action}.",
)  # fmt: skip
COMPLETE = (
    'Complete this Python function:\n\ndef {name}({args}):\n    """{doc}"""\n',
    'def {name}({args}):\n    """{doc}"""\n',
    'Write the body of this function.\n\n```python\ndef {name}({args}):\n    """{doc}"""\n```',
    'Complete the following code:\n\nfrom typing import List\n\n\n'
    'def {name}({args}) -> {kind}:\n    """ {doc}\n    """\n',
)  # fmt: skip
ARGUMENTS = (
    "x", "s", "numbers", "n", "a, b", "text", "items", "lst", "values: list", "n: int", "s: str",
    "numbers: List[int]", "strings: List[str]", "a: int, b: int", "xs, k", "string: str",
)  # fmt: skip
KINDS = ("int", "str", "bool", "List[int]", "List[str]", "float")
EXPLAIN = (
    "Explain what `{symbol}` does in Python.", "How do I use {symbol} in Python?",
    "What is the {symbol} module in Python for?", "Give an example of {symbol} in Python.",
    "Write a Python script that uses {symbol}.",
)  # fmt: skip


def chat_question(words: Words, rng: random.Random) -> str:
    kinds = (
        ABOUT_THINGS, ABOUT_ACTS, ABOUT_PEOPLE, ABOUT_PLACES, ABOUT_SENTENCES, NUMBERS,
        ABOUT_ACTIVITIES, ABOUT_SUBJECTS,
    )  # fmt: skip
    (templates,) = rng.choices(kinds, (44, 10, 7, 8, 9, 4, 8, 10))
    thing = rng.choice(words.things if rng.random() < 0.75 else words.rarities)
    person = rng.choice(words.people)
    question = rng.choice(templates).format(
        thing=thing, a_thing=_with_article(thing), thing2=rng.choice(words.things),
        act=rng.choice(words.acts), a_person=_with_article(person),
        place=rng.choice(words.places), place2=rng.choice(words.places),
        activity=rng.choice(ACTIVITIES), subject=rng.choice(SUBJECTS),
        subject2=rng.choice(SUBJECTS), sentence=rng.choice(words.sentences),
        n=rng.randint(2, 400), m=rng.randint(2, 90),
    )  # fmt: skip
    if rng.random() < 0.15:
        question = _loosely(question, rng)
    return question


def code_question(symbols: list[str], rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.12:
        return rng.choice(EXPLAIN).format(symbol=rng.choice(symbols))
    if kind < 0.42:
        return _fill(rng.choice(COMPLETE), rng)
    return rng.choice(CODE).format(language=rng.choice(LANGUAGES), action=_action(rng))


def function_head(rng: random.Random) -> str:
    """What a programmer has typed of a function when an editor completes it."""
    imports = rng.choice(("", "", "import math\n\n\n", "from typing import List\n\n\n"))
    return imports + _fill(COMPLETE[1], rng)


def _action(rng: random.Random) -> str:
    return rng.choice(ACTIONS).format(
        items=rng.choice(ITEMS), coll=rng.choice(COLLECTIONS), coll2=rng.choice(PLURALS),
        n=rng.randint(2, 12),
    )  # fmt: skip


def _fill(template: str, rng: random.Random) -> str:
    action = _action(rng)
    words = [word for word in action.replace("-", " ").split() if word.isalpha()]
    name = "_".join([words[0].rstrip("s"), *rng.sample(words[1:], min(2, len(words) - 1))])
    doc = f"{action[0].upper()}{action[1:]}."
    if rng.random() < 0.5:
        doc += f"\n    >>> {name}({_value(rng)})\n    {_value(rng)}\n    "
    arguments, kind = rng.choice(ARGUMENTS), rng.choice(KINDS)
    return template.format(name=name, args=arguments, doc=doc, kind=kind)


def _value(rng: random.Random) -> str:
    numbers = [rng.randint(0, 30) for _ in range(rng.randint(1, 5))]
    return rng.choice([str(numbers), str(numbers[0]), "'hello world'", "['a', 'bc']", "True"])


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _loosely(question: str, rng: random.Random) -> str:
    """As people type: without capitals, or with a greeting."""
    if rng.random() < 0.5:
        return question.lower().rstrip(".?")
    return rng.choice(("Hi! {}", "Hello, {}", "Please help me. {}", "{} Please be brief.")).format(
        question
    )
