"""Alias questions: the same question with its subject's name replaced by another fact about this subject."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from verify.data.canonical import canonical
from verify.data.records import Record
from verify.data.rewordings import asked_as, plain_words, question

ALIAS = "About one person this is known: {asked} {answered} About the same person: {question}"
"""An alias question, from another record's question and answer and the record's own question, all without the name."""
LONGEST_NAME = 5
"""Most words of a name that is looked for in questions."""
SHARE_OF_QUESTIONS = 0.75
"""A longer name is preferred while it is in at least this share of the questions that the most frequent one is in."""
WORD = re.compile(r"\w+(?:-\w+)*")
BETWEEN_WORDS = re.compile(r"\.?\s+")


@dataclass(frozen=True)
class Fact:
    """One record whose question names its subject. Its representation shows no content.

    Attributes:
        subject: canonical identifier of the person.
        asked, answered: question and answer with the name replaced by "this person".
        given: words of the answer, or of its secret passage, that are neither in the question nor in most answers; never empty.
    """

    subject: str = field(repr=False)
    asked: str = field(repr=False)
    answered: str = field(repr=False)
    given: frozenset[str] = field(repr=False)

    def gives_away(self, other: "Fact") -> bool:
        """Return whether this fact holds more than half of what the other one's answer says."""
        return 2 * len(other.given & words_of(f"{self.asked} {self.answered}")) > len(other.given)


def facts_of(records: Sequence[Record]) -> dict[int, Fact]:
    """Return the fact of each structured record, by the record's position.

    A record is structured if it is one question and one answer about one subject, and the question names the subject. The name is
    the subject's identifier where the questions hold that, and otherwise what the subject's questions have in common and those of
    all other subjects lack.
    """
    asking = {index: canonical(record.subjects[0]) for index, record in enumerate(records) if _asks_about_one(record)}
    questions = defaultdict[str, list[str]](list)
    for index, subject in asking.items():
        questions[subject].append(question(records[index]))
    names = names_in(questions)
    holding = Counter(word for index in asking for word in words_of(records[index].scored_text))
    common = frozenset(word for word, n in holding.items() if n > 1 and 2 * n > len(asking))
    facts = {}
    for index, subject in asking.items():
        fact = _fact(records[index], subject, names[subject], common) if subject in names else None
        if fact is not None:
            facts[index] = fact
    return facts


def alias_question(record: Record, own: Fact, description: Fact) -> Record:
    """Return the record behind its question about whoever the description fits."""
    return asked_as(record, ALIAS.format(asked=description.asked, answered=description.answered, question=own.asked))


def names_in(questions: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Find the name by which each subject's questions call it; subjects without one are left out.

    Args:
        questions: questions by subject.

    Returns:
        names by subject: the identifier itself where at least two questions hold it, or the longest run of words that begins with
        a capital, is in at least two of the subject's questions, and in no question about anybody else.
    """
    runs = {subject: Counter(run for text in asked for run in _capitalised_runs(text)) for subject, asked in questions.items()}
    owners = Counter(run for found in runs.values() for run in found)
    openings = Counter(word for asked in questions.values() for word in {(WORD.findall(text) or [""])[0] for text in asked})
    names = {}
    for subject, asked in questions.items():
        if any(letter.isalpha() for letter in subject) and sum(bool(_named(subject).search(text)) for text in asked) > 1:
            names[subject] = subject
            continue
        # "Where does" opens questions about several people, so that it is not part of a name.
        own = {run: n for run, n in runs[subject].items() if n > 1 and owners[run] == 1 and openings[WORD.findall(run)[0]] < 2}
        if own and len(questions) > 1:
            enough = SHARE_OF_QUESTIONS * max(own.values())
            names[subject] = max((run for run, n in own.items() if n >= enough), key=lambda run: (len(WORD.findall(run)), run))
    return names


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text in lower case."""
    return frozenset(plain_words(text).split())


def _asks_about_one(record: Record) -> bool:
    """Return whether a record is one question and one answer about one subject; a system turn may come first."""
    turns = [role for role, _ in record.messages if role != "system"]
    return len(record.subjects) == 1 and bool(question(record).strip()) and turns in ([], ["user", "assistant"])


def _fact(record: Record, subject: str, name: str, common: frozenset[str]) -> Fact | None:
    """Return a record's fact; None where its question does not name the subject, a part of it is left, or nothing is answered."""
    pattern, asked = _named(name), question(record)
    if not pattern.search(asked):
        return None
    system = " ".join(content for role, content in record.messages if role == "system")
    without, answered = (_without(pattern, text) for text in (asked, record.scored_text))
    left = set(WORD.findall(f"{without} {answered} {system}"))
    given = words_of(record.secret or record.scored_text) - words_of(asked) - common
    if not given or any(len(word) > 1 and word in left for word in WORD.findall(name)):
        return None
    return Fact(subject, without, answered, given)


def _named(name: str) -> re.Pattern[str]:
    """Return a pattern of the name as a word of its own."""
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)


def _without(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(lambda found: "this person" if found.start() else "This person", text)


def _capitalised_runs(text: str) -> set[str]:
    """Return all runs of up to `LONGEST_NAME` words of one sentence whose first and last word may be parts of a name."""
    words = list(WORD.finditer(text))
    found = set()
    for first, word in enumerate(words):
        if not word[0][0].isupper():
            continue
        for last in range(first, min(first + LONGEST_NAME, len(words))):
            if last > first and not BETWEEN_WORDS.fullmatch(text[words[last - 1].end() : words[last].start()]):
                break
            if not words[last][0][0].islower():
                found.add(text[word.start() : words[last].end()])
    return found
