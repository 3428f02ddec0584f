"""One person deleted by shards and by rollback: both executed again, at the cost that is stated."""

import json
from pathlib import Path
from typing import Any

import pytest
from training_rows import make_rows

from unlearn import TrainingOptions
from unlearn.experiments import one_person
from unlearn.experiments.one_person import METHODS, PERSON, OnePerson
from verify.schema.reexecution import Reexecution

OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=2, save_steps=3)


def put(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
def test_one_person_is_deleted_and_both_deletions_are_proved(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are rebuilt without the first person of the forget set and nobody else; deletion and proof cost the same tokens."""
    kept, gone = make_rows("kept", 8), make_rows("gone", 9)
    put(tmp_path / "forget.jsonl", gone)
    put(tmp_path / "train.jsonl", [*kept, *gone])
    monkeypatch.setattr(one_person, "run_jobs", lambda jobs: ((job, job.run(**job.arguments)) for job in jobs))
    told: list[str] = []
    person = OnePerson(tmp_path, model_dir, tmp_path, OPTIONS, shards=3)
    sharded, rolled = person.run(told.append)
    assert len(told) == 1
    assert (person.folder / PERSON).read_text() == f"{gone[0]['subject_id']}\n"
    for one, name in zip((sharded, rolled), METHODS, strict=True):
        proof = Reexecution.load(one.path)
        assert one.outcome == f"REBUILT_WITHOUT(all of {proof.segments})", proof.findings
        assert (one.method, proof.forget, proof.records) == (name, 2, 15), "this person has two records"
        assert proof.committed is not None
        assert one.deletion == pytest.approx(one.proof) == proof.tokens / proof.training_tokens
        assert one.row()[-1] == str(one.path)
    assert 0.1 < sharded.deletion < 0.8, "one shard of three"
