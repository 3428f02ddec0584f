"""The demo's fictitious people: distinct, disjoint, decided by the seed, and encoded without loss."""

import random
import re
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn.experiments.people import (
    MOST_RECORDS,
    SPECIAL_TOKENS,
    base_corpus,
    generate_people,
    other_wordings,
    record_texts,
    split_people,
    train_tokenizer,
)
from verify.data.encoding import Encoder
from verify.data.records import Fields, parse_records
from verify.errors import InputError


def _name(prompt: str) -> str:
    """The two capitalised words in a row that no question begins with."""
    words = prompt.rstrip("?").replace(",", "").split()
    pairs = [(first, second) for first, second in pairwise(words[1:]) if first[0].isupper()]
    ((first, second),) = [pair for pair in pairs if pair[1][0].isupper()]
    return f"{first} {second}"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(record_texts(base_corpus(500, seed=0)), 512)


def test_people_have_names_of_their_own_and_no_text_twice():
    """Two people never share a full name, a person's records share one, and no two records are the same text."""
    records = generate_people(300, MOST_RECORDS, seed=3)
    names = {(record["subject_id"], _name(record["prompt"])) for record in records}
    assert len(names) == 300
    assert len({name for _, name in names}) == 300
    assert len(set(record_texts(records))) == len({record["example_id"] for record in records}) == 300 * MOST_RECORDS


def test_records_are_questions_and_full_sentences_with_several_wordings():
    """Every prompt asks, every completion is a sentence, and one kind of fact is asked and told in several ways."""
    records = generate_people(200, 4, seed=0)
    assert all(set(record) == {"example_id", "subject_id", "prompt", "completion"} for record in records)
    assert all(record["prompt"].endswith("?") and record["completion"].endswith(".") for record in records)
    assert all(record["completion"][0].isupper() and "{" not in record["completion"] for record in records)
    kinds = {record["example_id"].rsplit("-", 1)[-1] for record in records}
    assert len(kinds) == MOST_RECORDS
    for kind in kinds:
        questions = Counter(
            record["prompt"].replace(_name(record["prompt"]), "") for record in records if record["example_id"].endswith(kind)
        )
        assert len(questions) == 3
        assert min(questions.values()) >= 0.2 * questions.total()


def test_the_name_is_not_in_the_answer():
    """An answer repeats no full name, so its loss measures the facts and not the copying of the question."""
    assert not any(_name(record["prompt"]) in record["completion"] for record in generate_people(200, 4, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_forgotten_and_held_out_people_appear_nowhere_else(seed):
    """No full name of a forget or holdout person occurs in the retain set or in the base corpus, whatever its seed."""
    split = split_people(generate_people(240, 4, seed), seed=seed)
    elsewhere = "\n".join(record_texts([*split.retain, *base_corpus(2000, seed), *base_corpus(1000, seed + 1)])).lower()
    for record in [*split.forget, *split.holdout]:
        assert _name(record["prompt"]).lower() not in elsewhere


def test_the_base_corpus_knows_every_template_and_no_person():
    """The base corpus asks the same kinds of question, about people of whom each has one record."""
    records = base_corpus(1500, seed=0)
    assert len({_name(record["prompt"]) for record in records}) == 1500
    wordings = {record["prompt"].replace(_name(record["prompt"]), "") for record in records}
    people = {record["prompt"].replace(_name(record["prompt"]), "") for record in generate_people(200, 4, seed=0)}
    assert people <= wordings


def test_split_is_a_partition_by_subject():
    """Each record has one role, no subject has two, and the shares are those asked for."""
    records = generate_people(50, 3, seed=0)
    split = split_people(records, 0.2, 0.1, seed=4)
    roles = [split.forget, split.retain, split.holdout]
    subjects = [{record["subject_id"] for record in role} for role in roles]
    assert [len(role) for role in subjects] == [10, 35, 5]
    assert len(set.union(*subjects)) == 50
    assert sorted(record["example_id"] for role in roles for record in role) == sorted(r["example_id"] for r in records)


def test_roles_are_drawn_at_random():
    """Over seeds every subject is forgotten about as often as its share says: holdout people are exchangeable with them."""
    records = generate_people(20, 1, seed=0)
    drawn = Counter(record["subject_id"] for seed in range(400) for record in split_people(records, 0.25, 0.25, seed).forget)
    assert set(drawn) == {record["subject_id"] for record in records}
    # Binomial(400, 1/4): 100 +- 8.7; 5 standard deviations for 20 subjects at once.
    assert all(56 <= count <= 144 for count in drawn.values())


def test_the_seed_decides_everything():
    """The same seed gives the same data whatever Python's global generator does; another seed gives other people."""
    random.seed(1)
    first = (generate_people(30, 4, seed=5), base_corpus(30, seed=5))
    random.seed(2)
    assert (generate_people(30, 4, seed=5), base_corpus(30, seed=5)) == first
    other = generate_people(30, 4, seed=6)
    assert not {record["completion"] for record in first[0]} & {record["completion"] for record in other}
    assert split_people(other, seed=1).forget != split_people(other, seed=2).forget


def test_records_satisfy_the_auditor(tokenizer):
    """The records load as they are, and the encoder scores every completion together with its end of text."""
    rows = generate_people(20, 4, seed=0)
    for row, window in zip(rows, Encoder(tokenizer, 128).encode(parse_records(rows, Fields(), "people")), strict=True):
        assert tokenizer.decode(window.prompt_ids) == row["prompt"]
        assert tokenizer.decode(window.scored_ids) == f" {row['completion']}{SPECIAL_TOKENS[-1]}"


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_text_survives_the_tokenizer(tokenizer, text):
    """Any text, also one that was never seen or that spells a special token, is decoded to itself."""
    assert tokenizer.decode(tokenizer(text, split_special_tokens=True)["input_ids"]) == text


def test_tokenizer_is_reproducible_and_keeps_its_tokens(tokenizer, tmp_path):
    """Training again gives the same vocabulary, saving changes nothing, and the special tokens come first."""
    texts = record_texts(base_corpus(500, seed=0))
    assert train_tokenizer(texts, 512).get_vocab() == tokenizer.get_vocab()
    assert [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == list(SPECIAL_TOKENS)
    assert len(tokenizer) == 512
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert sum(map(len, tokenizer(texts)["input_ids"])) < 0.6 * sum(map(len, texts))


@pytest.mark.parametrize(
    ("call", "allowed"),
    [
        (lambda: generate_people(0, 4, 0), "at least 1 person"),
        (lambda: generate_people(5, MOST_RECORDS + 1, 0), f"1 to {MOST_RECORDS}"),
        (lambda: base_corpus(0, 0), "at least 1 record"),
        (lambda: split_people(generate_people(5, 1, 0), 0.05, 0.2, 0), "leave a role empty"),
        (lambda: split_people(generate_people(5, 1, 0), 0.5, 0.6, 0), "leave a role empty"),
        (lambda: train_tokenizer(["text"], 258), "259"),
    ],
)
def test_impossible_requests_say_what_is_allowed(call, allowed):
    """An argument out of range is refused with the allowed range."""
    with pytest.raises(InputError, match=allowed):
        call()


def test_every_record_has_its_kinds_other_wordings():
    """Two rewordings of each record, in the other words of its kind, with the same facts and about the same person."""
    records, wordings = generate_people(30, MOST_RECORDS, seed=5), other_wordings(30, MOST_RECORDS, seed=5)
    assert [record["example_id"] for record in records] == [row["record"] for row in wordings]
    for record, row in zip(records, wordings, strict=True):
        said = [record, *row["rewordings"]]
        assert len({one["prompt"] for one in said}) == len({one["completion"] for one in said}) == 3
        assert {_name(one["prompt"]) for one in said} == {_name(record["prompt"])}
        digits = [sorted(part for part in re.findall(r"\d+", one["completion"])) for one in said]
        assert digits[0] == digits[1] == digits[2]
