"""Rules that put a record into other contexts, for a method to train on.

All are made from the record's own question, by rules that know nothing of the audit's wordings: an audit's rewordings, its
instruction and its examples are texts that no rule here gives.
"""

import re
from dataclasses import replace

import numpy as np

from verify.data.records import Record
from verify.data.rewordings import asked_as, question

CONTEXTS = ("exact", "none", "cut", "shuffled", "names", "preamble", "tail", "scrambled")
"""exact: as it is. none: the completion alone. cut: without its first words. shuffled: its words in another order. names: what is
capitalised or a number. preamble: behind a sentence. tail, scrambled: the same with the answer without its first words, or with its
words in another order."""
PREAMBLES = (
    "Question:",
    "I would like to know something.",
    "Here is what was asked today.",
    "Take your time.",
    "The following came by post:",
    "Note for the file.",
)


def put(record: Record, context: str, rng: np.random.Generator) -> Record:
    """Return the record in a context; one without a question stays as it is."""
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
