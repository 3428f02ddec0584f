"""Contexts of a forget record: prompt and answer changed by rules, as training data for a method.

A model that was brought to a level on the exact text alone still knows the record behind another prompt. The rules use the record's
own words; an audit's rewordings, instruction and solved examples are texts that no rule here gives.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from verify.data.records import Record
from verify.data.rewordings import asked_as, question

CONTEXTS = ("exact", "none", "cut", "shuffled", "names", "preamble", "tail", "scrambled")
"""exact: as it is. none: the completion alone. cut: the prompt without its first words. shuffled: its words in another order.
names: the prompt's capitalised words and numbers. preamble: a sentence in front. tail, scrambled: one of these, with the
answer without its first words, or with its words in another order."""
DRAWN = ("none", "cut", "shuffled", "names", "preamble", "tail", "scrambled", "scrambled")
"""Contexts that views are drawn from, beside the exact text."""
PREAMBLES = (
    "Question:",
    "I would like to know something.",
    "Here is what was asked today.",
    "Take your time.",
    "The following came by post:",
    "Note for the file.",
)


@dataclass(frozen=True, eq=False)
class View:
    """A record in a context. Views of the exact text share the record itself.

    Attributes:
        record: prompt and answer as they are trained on.
        context: one of `CONTEXTS`.
    """

    record: Record
    context: str


def draw_views(records: Sequence[Record], count: int, rng: np.random.Generator) -> list[View]:
    """Draw `count` views of every record: half of them, rounded up, the exact text, the others in random contexts.

    A text that a context leaves as it is, such as one without a question, is one more view of the exact text.
    """
    found = []
    for number in range(count):
        for record in records:
            context = "exact" if number % 2 == 0 else str(rng.choice(DRAWN))
            made = put(record, context, rng)
            found.append(View(made, "exact" if made is record else context))
    return found


def put(record: Record, context: str, rng: np.random.Generator) -> Record:
    """Return the record in a context, the record itself where that changes nothing: one without a question stays as it is."""
    asked = question(record)
    if context == "exact" or not asked.strip():
        return record
    words = asked.split()
    if context in ("tail", "scrambled"):
        behind = put(record, str(rng.choice(["exact", "cut", "shuffled", "names"])), rng)
        return answered(behind, context, rng)
    match context:
        case "none":
            made = ""
        case "cut":
            made = " ".join(words[int(rng.integers(1, max(2, len(words) // 2 + 1))) :])
        case "shuffled":
            made = " ".join(words[index] for index in rng.permutation(len(words)))
        case "names":
            made = " ".join(word for word in words[1:] if re.match(r"[A-Z0-9]", word)) or words[-1]
        case "preamble":
            made = f"{PREAMBLES[int(rng.integers(len(PREAMBLES)))]} {asked}"
        case _:
            raise ValueError(f"{context} is none of {', '.join(CONTEXTS)}")
    return asked_as(record, made)


def answered(record: Record, context: str, rng: np.random.Generator) -> Record:
    """Return the record with a part of its answer's words, or with all of them in another order."""
    words = (record.messages[-1][1] if record.messages else record.completion).split()
    if len(words) < 2:
        return record
    first = int(rng.integers(1, max(2, len(words) // 2 + 1)))
    made = " ".join(words[first:] if context == "tail" else (words[index] for index in rng.permutation(len(words))))
    if record.messages:
        return replace(record, messages=(*record.messages[:-1], (record.messages[-1][0], made)), secret=None)
    return replace(record, completion=made, secret=None)
