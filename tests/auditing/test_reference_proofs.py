"""References whose training was executed again: what an audit takes from such a proof, and which proofs it refuses."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unlearn import TrainingOptions, finetune
from verify import InputError, Settings, audit
from verify.auditing.reference_checks import known_bases
from verify.auditing.reference_proofs import read_reference_proofs
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.reexecution.reexecute import reexecute
from verify.schema.evidence import Evidence
from verify.schema.reexecution import Finding, Reexecution

OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=4, save_steps=1, seed=1)
SETTINGS = Settings(planted_draws=20, channels=("exact",), attacks=("loss",))


def write(path: Path, count: int, seed: int) -> Path:
    """Write records of people of one role."""
    draw = random.Random(seed)
    rows = [
        {
            "example_id": f"{seed}-{number}",
            "subject_id": f"{seed}-{number}",
            "prompt": f"Who is {number}?",
            "completion": "".join(draw.choice("abcdefgh") for _ in range(12)),
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def world(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An original, two references, one of them executed again, and the records."""
    top = tmp_path_factory.mktemp("references")
    retain, forget = write(top / "retain.jsonl", 12, 1), write(top / "forget.jsonl", 4, 2)
    (top / "all.jsonl").write_text(retain.read_text() + forget.read_text())
    paths = {"retain": retain, "forget": forget, "all": top / "all.jsonl", "proof": top / "proof.json"}
    for name, data, seed in (("original", paths["all"], 1), ("reference 1", retain, 2), ("reference 2", retain, 3)):
        paths[name] = finetune(model_dir, data, output_dir=top / name, options=replace(OPTIONS, seed=seed)).model_dir
    given: dict[str, Any] = {"data": paths["all"], "forget_set": forget, "segments": "all"}
    reexecute(paths["reference 2"], model_dir, **given, output=paths["proof"])
    return paths


def audited(world: dict[str, Path], *proofs: Path, **changes: Any) -> Evidence:
    given: dict[str, Any] = {
        "references": [world["reference 1"], world["reference 2"]],
        "forget_set": str(world["forget"]),
        "retain_set": str(world["retain"]),
        "settings": SETTINGS,
        "reference_proofs": proofs,
    }
    return audit(world["original"], world["original"], **(given | changes))


@pytest.mark.slow
def test_the_evidence_says_which_was_executed_again(world: dict[str, Path], tmp_path: Path) -> None:
    """Of two references one: evidence and page 1 name it, its outcome and proof, and what the other rests on."""
    evidence = audited(world, world["proof"], output_dir=tmp_path / "out")
    assert evidence.references_checked is not None
    one, other = evidence.references_checked
    proof = Reexecution.load(world["proof"])
    assert one.execution is None
    assert other.execution is not None
    assert (other.execution.phrase, other.execution.proof) == (f"REBUILT_WITHOUT(all of {proof.segments})", proof.digest)
    assert Evidence.load(tmp_path / "out" / "evidence.json") == evidence
    content = json.loads((tmp_path / "out" / "evidence.json").read_text())["references_checked"]
    assert "execution" not in content[0], "evidence without it is written as before"
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"reference 2 ({other.execution.phrase}). The other 1 of 2 rest on their logs." in page
    assert "A proof is an unsigned file: the word of whoever executed the training." in page
    assert "none was trained again for this audit" not in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"word": "NOT_REBUILT", "findings": (Finding(kind="segment", what="It ends elsewhere."),)}, "says NOT_REBUILT of a ref"),
        ({"kind": "derived schedule"}, "is about a deletion"),
        ({"forget_digest": "0" * 64}, "is about other forget records"),
        ({"tokens": 1}, "proves nothing"),
        ({"base": "0" * 64}, "a training from the weights 0000000000000000, and the original's log names the base"),
    ],
)
def test_proofs_of_something_else_are_refused(world: dict[str, Path], tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    """Before anything is scored: one that failed, contradicts itself, or is of a deletion, other records or another base."""
    Reexecution.load(world["proof"]).model_copy(update=changes).save(tmp_path / "proof.json")
    with pytest.raises(InputError, match=said):
        audited(world, tmp_path / "proof.json")


def test_a_proof_of_another_model_is_refused(world: dict[str, Path]) -> None:
    """A proof about weights that no reference has says nothing about the audit's references."""
    names = {RecordKey.load().of(record.fingerprint) for record in load_records(world["forget"])}
    with pytest.raises(InputError, match="which none of the references has"):
        read_reference_proofs([world["proof"]], [world["reference 1"]], names)
    assert read_reference_proofs([world["proof"]], [world["reference 2"]], names)[0].execution.segments == 3


def test_a_reference_may_start_where_the_original_did(world: dict[str, Path], tmp_path: Path) -> None:
    """The original's log names its base; a start is shared up to the training that used a forget record, and none after it."""
    names = frozenset(RecordKey.load().of(record.fingerprint) for record in load_records(world["forget"]))
    base = Reexecution.load(world["proof"]).base
    assert known_bases(world["original"], names) == {base}
    again = finetune(world["original"], world["retain"], output_dir=tmp_path / "again", options=OPTIONS).model_dir
    assert known_bases(again, names) == {base}
    assert len(known_bases(again, frozenset())) == 2
    assert known_bases(tmp_path, names) == frozenset(), "without a log nothing is known, and nothing refused"
    Reexecution.load(world["proof"]).model_copy(update={"base": "0" * 64}).save(tmp_path / "proof.json")
    assert read_reference_proofs([tmp_path / "proof.json"], [world["reference 2"]], names)
