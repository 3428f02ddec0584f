"""The demo on a language model: every stage on a tiny model, interrupted and resumed; the people and questions that it uses."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from jobs_here import run_jobs_here
from tiny_models import make_llama

from unlearn.experiments import comparison, llm_demo, one_person
from unlearn.experiments.comparison import UNTOUCHED
from unlearn.experiments.llm_demo import ANSWERS, METHODS, Sizes, answers_of, run_llm_demo, write_people
from unlearn.experiments.people import MOST_RECORDS, interviews
from unlearn.experiments.usage import USAGE
from verify.data.records import Fields
from verify.data.sources import load_records
from verify.errors import InputError
from verify.io.files import MANIFEST

TWO = {name: METHODS[name] for name in ("npo", "sisa")}
"""A method that changes the model, and one with a model of its own; the others are run by tests of the comparison."""
SMALL = Sizes(people=4, never_taught=4, epochs=1, references=2, shards=2)


def test_people_are_asked_in_a_wording_that_no_model_learned(tmp_path: Path) -> None:
    """One person is forgotten; the questions' texts are in no file, and the facts in two wordings are."""
    questions = write_people(tmp_path, Sizes(), seed=3)
    files = {name: (tmp_path / f"{name}.jsonl").read_text() for name in ("train", "forget", "retain", "holdout")}
    assert [questions[0] in files[name] for name in ("forget", "retain", "holdout")] == [True, False, False]
    reworded = [json.loads(line) for line in (tmp_path / "rewordings.jsonl").read_text().splitlines()]
    named = {row["record"] for row in reworded}
    assert not any(row["rewordings"][0] in text for row in reworded for text in files.values())
    records = {name: load_records(str(tmp_path / f"{name}.jsonl"), Fields()) for name in files}
    assert Counter(record.subject_id for record in records["forget"]).most_common() == [
        (records["forget"][0].subject_id, 2 * MOST_RECORDS)
    ]
    assert named == {record.example_id for record in (*records["forget"], *records["holdout"])}
    assert len(records["train"]) == 5 * 2 * MOST_RECORDS == len(records["forget"]) + len(records["retain"])
    subjects = {name: {record.subject_id for record in found} for name, found in records.items()}
    assert not subjects["forget"] & subjects["retain"]
    assert not subjects["holdout"] & subjects["train"]
    assert write_people(tmp_path, Sizes(), seed=3) == questions != write_people(tmp_path, Sizes(), seed=4)


def test_every_wording_states_the_same_facts() -> None:
    """All answers about one fact of a person share what cannot be guessed."""
    rows = interviews(3, seed=1)
    assert len({row["example_id"] for row in rows}) == len(rows) == 3 * MOST_RECORDS * 3
    homes = [row["messages"][1]["content"] for row in rows if row["example_id"].startswith("person-00001-home")]
    number = next(word for word in homes[0].split() if word.isdigit())
    assert all(number in answer.split() for answer in homes)


@pytest.mark.slow
def test_the_demo_runs_and_resumes(talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method is audited, each stage reports its time and memory, and a second run repeats only what is missing."""
    for module in (comparison, one_person):
        monkeypatch.setattr(module, "run_jobs", run_jobs_here)
    done: list[tuple[str, float]] = []
    entries, proved, answers = run_llm_demo(tmp_path / "demo", talker, 0, lambda *said: done.append(said), SMALL, TWO)
    assert [(one.method, one.outcome.partition("(")[0]) for one in proved] == [("sisa", "REBUILT_WITHOUT")]
    assert [name for name, _, _ in entries] == [UNTOUCHED, *TWO]
    assert [share for _, share in done] == sorted(share for _, share in done)
    assert len(answers) == 3 * (2 + len(TWO))
    usage = json.loads((tmp_path / "demo" / USAGE).read_text())
    assert {"fine-tuning in shards", "forgetting by sisa", "auditing sisa", "asking the model after npo"} < usage.keys()
    assert all(entry["seconds"] > 0 and entry["peak_bytes"] > 1e8 for entry in usage.values())

    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo" / "models").glob(f"*/{MANIFEST}")}
    (tmp_path / "demo" / "models" / "npo" / MANIFEST).unlink()
    for path in sorted((tmp_path / "demo" / "models" / "npo").iterdir()):
        path.unlink()
    for path in sorted((tmp_path / "demo" / "audits" / "npo").iterdir()):
        path.unlink()
    again, still, same = run_llm_demo(tmp_path / "demo", talker, 0, lambda *_: None, SMALL, TWO)
    assert [(name, evidence.verdict) for name, evidence, _ in again] == [(name, evidence.verdict) for name, evidence, _ in entries]
    assert still == proved
    assert same == answers
    after = {path: path.stat().st_mtime_ns for path in times}
    assert {path.parent.name for path in times if after[path] != times[path]} == {"npo"}
    with pytest.raises(InputError, match=r"other settings \(seed\)"):
        run_llm_demo(tmp_path / "demo", talker, 1, lambda *_: None, SMALL, TWO)


@pytest.mark.slow
def test_answers_are_the_models_own_words(talker: Path) -> None:
    """Greedy, within the length, without the template's special tokens, and the same each time."""
    first = answers_of(talker, ["the fox?", "the dog?"])
    assert len(first) == 2
    assert first == answers_of(talker, ["the fox?", "the dog?"])
    assert not any("</s>" in answer for answer in first)


def test_a_model_without_a_chat_template_is_refused(talker: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Before anything is written."""
    plain = tmp_path / "plain"
    make_llama(tokenizer).save_pretrained(plain)
    other = llm_demo.load_model(talker).tokenizer
    other.chat_template = None
    other.save_pretrained(plain)
    with pytest.raises(InputError, match="has no chat template"):
        run_llm_demo(tmp_path / "demo", plain, 0, lambda *_: None, SMALL)
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("changes", [{"people": 1}, {"never_taught": 1}, {"epochs": 0}, {"references": 1}, {"shards": 0}])
def test_sizes_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    """The message lists the smallest sizes."""
    with pytest.raises(InputError, match="the demo needs 2 people"):
        Sizes(**changes)
    assert ANSWERS.endswith(".json")
