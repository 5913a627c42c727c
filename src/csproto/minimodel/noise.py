"""What real customers do to a sentence.

Typing slips, homophones, dropped punctuation, greetings, repetition. It never changes
the label.
"""

import random
import re
from collections import defaultdict
from functools import cache
from typing import Any

from csproto.minimodel.lists import all_texts, phrases

# A slot's characters are left alone: the label copies them from the text.
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SHORT_FORMS = {
    "you": "u",
    "your": "ur",
    "please": "pls",
    "are": "r",
    "because": "cuz",
    "thanks": "thx",
    "and": "n",
    "to": "2",
    "for": "4",
    "really": "rly",
    "with": "w",
}


@cache
def homophones() -> dict[str, list[str]]:
    """For each character of the seeds the others with the same reading, tones aside."""
    from pypinyin import lazy_pinyin

    by_reading: dict[str, set[str]] = defaultdict(set)
    for character in {c for line in all_texts() for c in line if CHINESE.match(c)}:
        by_reading[lazy_pinyin(character)[0]].add(character)
    return {
        c: sorted(group - {c}) for group in by_reading.values() if len(group) > 1 for c in group
    }


@cache
def _to_traditional() -> Any:
    from opencc import OpenCC

    return OpenCC("s2t")  # reading its tables takes longer than a thousand sentences do


def roughen(text: str, keep: tuple[str, ...], language: str, pick: random.Random) -> str:
    """The sentence as somebody might type it.

    `keep` are the slots' texts, which stay as they are.
    """
    parts = (
        re.split(
            "(" + "|".join(map(re.escape, sorted(filter(None, keep), key=len, reverse=True))) + ")",
            text,
        )
        if any(keep)
        else [text]
    )
    change = _roughen_chinese if language == "zh" else _roughen_english
    return "".join(part if part in keep else change(part, pick) for part in parts)


def _roughen_chinese(text: str, pick: random.Random) -> str:
    if pick.random() < 0.35:
        text = re.sub(r"[,。!?,!?~]+(?!\d)", lambda m: pick.choice(("", " ", " ", "\n")), text)
    if pick.random() < 0.06:
        text = _swap_one(text, homophones(), pick)
    if pick.random() < 0.03 and len(text) > 5:
        place = pick.randrange(len(text))
        if CHINESE.match(text[place]):
            text = text[:place] + text[place + 1 :]
    if pick.random() < 0.03:
        text = _to_traditional().convert(text)
    return text


def _swap_one(text: str, table: dict[str, list[str]], pick: random.Random) -> str:
    places = [i for i, c in enumerate(text) if c in table]
    if len(text) < 4 or not places:
        return text
    place = pick.choice(places)
    return text[:place] + pick.choice(table[text[place]]) + text[place + 1 :]


def _roughen_english(text: str, pick: random.Random) -> str:
    if pick.random() < 0.35:
        text = text.lower()
    if pick.random() < 0.25:
        text = text.replace("'", "").replace("’", "")
    if pick.random() < 0.3:
        text = re.sub(r"[.!?]+(\s|$)", lambda m: " " if m[1] else "", text)
    if pick.random() < 0.12:
        text = re.sub(
            r"[A-Za-z]+",
            lambda m: SHORT_FORMS.get(m[0].lower(), m[0]) if pick.random() < 0.6 else m[0],
            text,
        )
    words = text.split(" ")
    for place, word in enumerate(words):
        if len(word) > 3 and word.isalpha() and pick.random() < 0.025:
            words[place] = _slip(word, pick)
    return " ".join(words)


def _slip(word: str, pick: random.Random) -> str:
    place = pick.randrange(1, len(word) - 1)
    return pick.choice(
        (
            word[:place] + word[place + 1 :],
            word[:place] + word[place] + word[place:],
            word[: place - 1] + word[place] + word[place - 1] + word[place + 1 :],
        )
    )


def dress(text: str, language: str, pick: random.Random) -> str:
    """With a greeting before or a closing after, or said twice; mostly as it is."""
    gap = pick.choice((" ", "\n", ",", "" if language == "zh" else " "))
    chance = pick.random()
    if chance < 0.10:
        return pick.choice(phrases(language, "greetings")) + gap + text
    if chance < 0.16:
        return text + gap + pick.choice(phrases(language, "closings"))
    if chance < 0.18:
        return text + pick.choice((" ", "\n")) + text
    return text
