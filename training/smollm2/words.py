"""Words of WordNet for questions to be about: nouns, verbs, places, people, and sentences."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

# WordNet's files of senses by number (its manual page lexnames): people and places among nouns.
_PERSON, _PLACE = "18", "15"
_PLAIN = re.compile(r"[a-z][a-z '-]{2,24}")
_NAME = re.compile(r"[A-Z][A-Za-z .'-]{2,28}")
# One word of so many is kept for questions that the drafter never learns from.
HELD_OUT = 20


@dataclass(frozen=True)
class Words:
    things: list[str]  # that WordNet's authors met in their texts
    rarities: list[str]  # all other things: species, tools, chemicals
    acts: list[str]
    people: list[str]
    places: list[str]
    sentences: list[str]  # examples of use and definitions


def read_words(folder: Path, held_out: bool) -> Words:
    """Of the folder with index.sense and data.*; the words held out, or all the others."""
    common = _common(folder / "cntlist.rev")
    things: set[str] = set()
    rarities: set[str] = set()
    people: set[str] = set()
    places: set[str] = set()
    sentences: set[str] = set()
    for line in _lines(folder / "data.noun"):
        facts, _, gloss = line.partition(" | ")
        fields = facts.split(" ")
        word = fields[4].replace("_", " ")
        if _is_held_out(word) != held_out:
            continue
        sentences.update(_sentences(gloss))
        if fields[1] == _PLACE and _NAME.fullmatch(word):
            places.add(word)
        elif fields[1] == _PERSON and _PLAIN.fullmatch(word):
            people.add(word)
        elif _PLAIN.fullmatch(word):
            (things if fields[4] in common else rarities).add(word)
    acts = set()
    for line in _lines(folder / "data.verb"):
        facts, _, gloss = line.partition(" | ")
        word = facts.split(" ")[4].replace("_", " ")
        if _is_held_out(word) != held_out:
            continue
        sentences.update(_sentences(gloss))
        if _PLAIN.fullmatch(word) and facts.split(" ")[4] in common:
            acts.add(word)
    return Words(*(sorted(found) for found in (things, rarities, acts, people, places, sentences)))


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text("latin-1").splitlines() if line[:1].isdigit()]


def _common(file: Path) -> set[str]:
    """Words that were seen in the texts that WordNet's authors counted."""
    return {line.partition("%")[0] for line in file.read_text("latin-1").splitlines()}


def _sentences(gloss: str) -> list[str]:
    return [found for found in re.findall(r'"([^"]{24,160})"', gloss) if found.isascii()]


def _is_held_out(word: str) -> bool:
    return hashlib.sha256(word.lower().encode()).digest()[0] % HELD_OUT == 0
