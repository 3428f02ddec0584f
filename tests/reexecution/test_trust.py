"""What a commitment is worth: nothing if it is younger than the request, and no more than the word of whoever wrote it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tampering import edit_log, microbatches, reseal

from unlearn import forget
from unlearn.methods.rollback import Rollback
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.errors import InputError
from verify.provenance.commitment import TrainingCommitment
from verify.reexecution.reexecute import reexecute


def seen_last(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Forge a training whose log says that the forget record stood in the last microbatch, commit to it, and roll back from it."""
    forged = folder / "forged"
    shutil.copytree(given["log"], forged)
    (gone,) = load_records(given["forget_set"])
    name = RecordKey.load().of(gone.fingerprint)

    def change(entries: list[dict[str, Any]]) -> None:
        index, other = entries[0]["records"].index(name), microbatches(entries)[-1]["records"][0]
        for entry in microbatches(entries):
            entry["records"] = [{index: other, other: index}.get(one, one) for one in entry["records"]]

    edit_log(forged, change)
    reseal(forged)
    commitment = TrainingCommitment.of(forged)
    commitment.model_copy(update={"created": "2026-01-01T00:00:00+00:00"}).save(folder / "commitment.json")
    files = {"data": given["data"], "forget_set": given["forget_set"]}
    forget(forged, Rollback(), **files, base=given["base"], output_dir=folder / "after")
    return {**given, "model": folder / "after", "log": forged, "commitment": folder / "commitment.json"}


@pytest.mark.slow
def test_states_that_were_prepared(rolled_back: dict[str, Any], tmp_path: Path) -> None:
    """A commitment to a false log, from before the request, stands for states that knew the record: they are executed if asked."""
    given = seen_last(rolled_back, tmp_path)
    proof = reexecute(**given)
    assert proof.phrase == "REBUILT_WITHOUT(all of 1)", proof.findings
    assert "up to step 5, are taken from the commitment of" in proof.claim
    assert (proof.unchanged, proof.committed_steps) == (5, 5)
    whole = reexecute(**given, from_base=True)
    assert whole.word == "NOT_REBUILT"
    assert whole.unchanged == 0
    assert any("do not lead to the recorded state" in finding.what for finding in whole.findings)


@pytest.mark.slow
def test_without_the_date_of_the_request_nothing_is_taken_as_committed(rolled_back: dict[str, Any], tmp_path: Path) -> None:
    """No commitment is then known to be older than the request: everything is executed, and what was prepared is found."""
    undated = reexecute(**{**rolled_back, "requested": None}, segments=1)
    assert undated.phrase == "REBUILT_WITHOUT(1 of 6)", undated.findings
    assert (undated.unchanged, undated.committed_steps, undated.requested) == (0, 0, None)
    assert "the date of the request was not given" in undated.claim
    dated = reexecute(**rolled_back, segments=1)
    assert f"before the request ({dated.requested})" in dated.claim
    assert reexecute(**{**seen_last(rolled_back, tmp_path), "requested": None}).word == "NOT_REBUILT"


@pytest.mark.slow
def test_an_honest_training_from_the_base(rolled_back: dict[str, Any]) -> None:
    """From the base on, every step is executed, and a sample is drawn of all segments."""
    whole = reexecute(**rolled_back, from_base=True)
    assert whole.phrase == "REBUILT_WITHOUT(all of 6)", whole.findings
    assert reexecute(**rolled_back, from_base=True, segments=2).phrase == "REBUILT_WITHOUT(2 of 6)"


def test_a_commitment_younger_than_the_request(rolled_back: dict[str, Any]) -> None:
    """It commits to nothing, and a date that is none is refused."""
    created = json.loads(rolled_back["commitment"].read_text())["created"]
    young = reexecute(**{**rolled_back, "requested": "2020-01-01"})
    assert young.word == "NOT_REBUILT"
    assert f"The commitment of {created} is not older than the request" in young.claim
    with pytest.raises(InputError, match="is not a date"):
        reexecute(**{**rolled_back, "requested": "yesterday"})
