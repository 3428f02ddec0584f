"""Paraphrases of questions by a small local instruction model, sampled through its chat template and checked word by word.

The answers stay as they are, so that nothing a model makes up can enter a measurement: only the question is worded differently. A
paraphrase counts if it keeps every name and number of the question and gives away no word of the answer.
"""

import hashlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from verify.data.chat_templates import ChatTemplate
from verify.data.records import Record
from verify.data.rewordings import Rewordings, plain_words, question
from verify.errors import InputError
from verify.models.generation import sampled_continuations
from verify.models.loading import LoadedModel

REQUEST = (
    "Write the following question in other words. Keep its meaning, every name and every number. "
    "Answer with the new question alone.\n\n{question}"
)
CANDIDATES = 8
"""Paraphrases that are sampled at a time; a question has at most two such draws."""
DRAWS = 2
TEMPERATURE, TOP_P = 0.8, 0.95
TELLING = 4
"""Length from which a word of the answer would give it away; shorter ones are mostly function words."""


def reword_by_model(
    loaded: LoadedModel,
    records: Sequence[Record],
    count: int,
    seed: int,
    progress: Callable[[float], None] = lambda _: None,
) -> Rewordings:
    """Sample paraphrases of every record's question; a record for which too few pass the checks has none.

    Args:
        loaded: an instruction model with a chat template. It reads the questions, so it should run where the audit runs.
        records: the records.
        count: rewordings of each.
        seed: seed of the sampling; the same seed gives the same paraphrases on the same machine.
        progress: called with the share of the records that is done.

    Raises:
        InputError: the model has no chat template, or no record has a question.
    """
    if not loaded.tokenizer.chat_template:
        raise InputError(f"{loaded.name} has no chat template, so it cannot be asked to reword. Name an instruction model.")
    if not any(question(record).strip() for record in records):
        raise InputError(
            "a model rewords questions, and no record has one. Give rewordings of the texts with --rewordings FILE, or leave "
            "--rewording-model out."
        )
    made: list[list[str]] = []
    for number, record in enumerate(records):
        made.append(_paraphrases(loaded, question(record), record.scored_text, count, seed + DRAWS * number))
        progress((number + 1) / len(records))
    parts = [f"{loaded.digest}\x00{count}\x00{seed}", *(text for texts in made for text in (str(len(texts)), *texts))]
    return Rewordings.of_questions(records, made, count, hashlib.sha256("\x00".join(parts).encode()).hexdigest(), loaded.digest)


def _paraphrases(loaded: LoadedModel, asked: str, answer: str, count: int, seed: int) -> list[str]:
    """Return up to `count` distinct paraphrases that pass the checks, in the order in which they were sampled."""
    if not asked.strip():
        return []
    turns = [{"role": "user", "content": REQUEST.format(question=asked)}]
    cue = ChatTemplate(loaded.tokenizer, {}, f"the rewording model {loaded.name}", [asked]).render(turns, cue=True)
    prompt = np.array(loaded.tokenizer(cue, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int32)
    own = len(loaded.tokenizer(asked, add_special_tokens=False, verbose=False)["input_ids"])
    length = min(3 * own + 16, loaded.context_length - len(prompt))
    found: dict[str, str] = {}
    for draw in range(DRAWS):
        sampled = sampled_continuations(loaded, prompt, length, CANDIDATES, temperature=TEMPERATURE, top_p=TOP_P, seed=seed + draw)
        for tokens in sampled:
            candidate = tidy(loaded.tokenizer.decode(tokens, skip_special_tokens=True))
            if keeps_the_content(asked, candidate, answer):
                found.setdefault(plain_words(candidate), candidate)
        if len(found) >= count:
            break
    return list(found.values())[:count]


def tidy(text: str) -> str:
    """Return the first line of a model's answer that holds words, without a label such as "New question:" and quotation marks."""
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if any(character.isalnum() for character in line)), "")
    unlabelled = re.sub(r"^\W*(new |rewritten |reworded )?(question|version)\s*:\s*", "", first, flags=re.IGNORECASE)
    return unlabelled.strip("\"'*`“”‘’ ")


def keeps_the_content(asked: str, candidate: str, answer: str) -> bool:
    """Return whether a candidate asks the same in other words: other wording, all names and numbers, nothing of the answer.

    Args:
        asked: the question.
        candidate: its paraphrase.
        answer: the scored text.
    """
    mine, theirs = _words(asked), _words(candidate)
    if not theirs or plain_words(candidate) == plain_words(asked) or len(theirs) > 3 * len(mine) + 5:
        return False
    # The first word of a sentence is capitalised anyway.
    kept = {word.casefold() for number, word in enumerate(mine) if any(map(str.isdigit, word)) or (number and word[:1].isupper())}
    said = {word.casefold() for word in theirs}
    known = {word.casefold() for word in mine}
    telling = {word.casefold() for word in _words(answer) if len(word) >= TELLING or any(map(str.isdigit, word))}
    return kept <= said and not (telling - known) & said


def _words(text: str) -> list[str]:
    """Return the words of a text, without a possessive ending."""
    return [re.sub(r"['’]s$", "", word) for word in re.findall(r"[\w'’-]+", text)]
