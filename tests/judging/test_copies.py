"""References that are copies of one training, and a target that is one of the references: seen by their losses."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from audits import evidence_of
from score_tables import simulated_table

from verify.auditing.audit import write_audit
from verify.auditing.recompute import recompute
from verify.errors import RunError
from verify.judging.copies import copies_gates
from verify.judging.protocol import Aside, judge
from verify.schema.parts import Value
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable, audited_sets

SETTINGS = Settings(planted_draws=40)
BLIND = Value(value=0.52, low=0.5, high=0.58, n=200, level=0.95, seed=0)


def with_copies(table: ScoreTable, of: Mapping[str, str], noise: float = 0.0) -> ScoreTable:
    """The same table, with models whose losses are those of others but for a little noise."""
    rng, blocks = np.random.default_rng(5), dict(table.blocks)
    for model, other in of.items():
        for role in ("forget", "retain", "holdout"):
            if (other, role) in blocks:
                block = table.blocks[other, role]  # type: ignore[index]
                blocks[model, role] = replace(block, loss=block.loss + noise * rng.standard_normal(len(block.loss)))  # type: ignore[index]
    return ScoreTable(blocks)


def names(table: ScoreTable) -> list[str]:
    return [gate.name for gate in copies_gates(table, [label for label in table.models() if label.startswith("reference")])]


ALL = {f"reference {number}": "reference 1" for number in range(2, 5)}


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-3])
def test_copies_of_one_training_judge_nothing(noise: float) -> None:
    """Another precision, order of neurons or a little noise: a target that is a copy as well would be certified at any margin."""
    copies = with_copies(simulated_table(seed=1), {**ALL, "target": "reference 1"}, max(noise, 1e-6))
    judged = judge(copies, SETTINGS, Aside(BLIND))
    assert judged.verdict == "NOT_TESTABLE"
    assert "Reference 1, reference 2, reference 3, reference 4 give nearly the same losses" in " ".join(judged.explanation)
    assert "distinct references" in str(judged.next_step)


@pytest.mark.parametrize("of", [{"reference 2": "reference 1"}, {"reference 4": "reference 3"}])
def test_two_of_several_are_named(of: Mapping[str, str]) -> None:
    """One training that counts twice is enough, and only the two are named."""
    found = copies_gates(with_copies(simulated_table(seed=2), of, 1e-4), [f"reference {number}" for number in range(1, 5)])
    ((one, other),) = of.items()
    assert [gate.name for gate in found] == ["distinct references"]
    assert found[0].reason.startswith(f"{other.capitalize()}, {one} give")


@pytest.mark.parametrize("share", [0.0, 0.05])
@pytest.mark.parametrize("of", [ALL, {"target": "reference 3"}, {**ALL, "target": "reference 1"}])
def test_honest_trainings_without_chance_are_not_called_copies(of: Mapping[str, str], share: float) -> None:
    """All records in one batch: retrainings are as close as copies are. They judge nothing, and nobody is said to have copied."""
    table = simulated_table(seed=6)
    losses = table.losses(("original", "reference 1"), "retain")
    close = with_copies(table, of, max(1e-6, share * float(np.std(losses[0] - losses[1]))))
    found = copies_gates(close, [f"reference {number}" for number in range(1, 5)])
    assert {gate.blocks for gate in found} == {"INCONCLUSIVE" if model == "target" else "NOT_TESTABLE" for model in of}
    for gate in found:
        assert "so are trainings in which little is left to chance" in gate.reason
        assert not re.search(r"\b(it is a copy|they are copies)\b", gate.reason)


@pytest.mark.parametrize("known", [1, 3])
@pytest.mark.parametrize("nats", [5.0, 50.0])
@pytest.mark.parametrize("sets", [("holdout",), ("holdout", "retain")])
def test_single_records_that_the_original_knows_make_no_copies(sets: Sequence[str], nats: float, known: int) -> None:
    """A control about the forgotten person, say: the references know nothing of it, and agree as honest trainings do."""
    blocks = {key: block for key, block in simulated_table(seed=7).blocks.items() if key[1] in ("forget", *sets)}
    for role in sets:
        block = blocks["original", role]  # type: ignore[index]
        blocks["original", role] = replace(block, loss=np.concatenate([block.loss[:known] - nats, block.loss[known:]]))  # type: ignore[index]
    assert names(ScoreTable(blocks)) == []


@pytest.mark.parametrize("changed", [1, 3])
def test_copies_that_differ_on_single_records_are_copies(changed: int) -> None:
    """Whoever hands in copies could move a few losses of each by far."""
    table = with_copies(simulated_table(seed=8), ALL, 1e-4)
    blocks = dict(table.blocks)
    for number in range(1, 5):
        for role in ("retain", "holdout"):
            block = blocks[f"reference {number}", role]  # type: ignore[index]
            loss = block.loss.copy()
            loss[number * changed : (number + 1) * changed] += 5.0
            blocks[f"reference {number}", role] = replace(block, loss=loss)  # type: ignore[index]
    assert names(ScoreTable(blocks)) == ["distinct references"]


@pytest.mark.slow
def test_a_target_that_is_a_reference_is_not_certified() -> None:
    """Eight references, one of them the model itself in another form: at best INCONCLUSIVE, and the report says which."""
    table = simulated_table(references=8, seed=0)
    assert judge(table, SETTINGS, Aside(BLIND)).verdict == "EQUIVALENT_WITHIN"
    judged = judge(with_copies(table, {"target": "reference 3"}, 1e-3), SETTINGS, Aside(BLIND))
    assert judged.verdict == "INCONCLUSIVE"
    assert any("nearly the losses of reference 3" in sentence for sentence in judged.explanation)
    assert "Leave out the reference" in str(judged.next_step)


@pytest.mark.slow
@pytest.mark.parametrize("references", [2, 4, 8])
@pytest.mark.parametrize("spread", [0.0, 0.04, 0.4])
def test_honest_retrainings_are_no_copies(references: int, spread: float) -> None:
    """Whatever sets them apart; and an untouched target is a copy of the original alone."""
    for seed in range(20):
        table = simulated_table(references=references, model_spread=spread, seed=seed)
        assert names(table) == []
    assert names(with_copies(table, {"target": "original"})) == []


@pytest.mark.parametrize("sets", [("holdout",), ("retain",), ()])
def test_a_set_that_is_missing_or_small_is_left_out(sets: Sequence[str]) -> None:
    """Either set alone shows copies; with nine records to keep the check stays open, and a text that is repeated counts once."""
    table = with_copies(simulated_table(seed=3), ALL, 1e-4)
    kept = ScoreTable({key: block for key, block in table.blocks.items() if key[1] in ("forget", *sets)})
    assert bool(names(kept)) == bool(sets)
    for repeated in (1, 5):
        few = {
            key: replace(block, records=block.records[:9] * repeated, loss=np.tile(block.loss[:9], repeated))
            for key, block in kept.blocks.items()
        }
        found = copies_gates(ScoreTable(few), list(ALL))
        assert [(gate.passed, gate.blocks) for gate in found] == ([(None, "INCONCLUSIVE")] if "retain" in sets else [])


def with_few(table: ScoreTable, kept: int) -> ScoreTable:
    """The same table without controls, and with this number of records to keep."""
    blocks = {key: block for key, block in table.blocks.items() if key[1] == "forget"}
    for (model, role), block in table.blocks.items():
        if role == "retain":
            few = {name: values[:kept] for name, values in vars(block).items() if isinstance(values, np.ndarray | tuple)}
            blocks[model, role] = replace(block, **few, scores={name: values[:kept] for name, values in block.scores.items()})
    return ScoreTable(blocks)


@pytest.mark.slow
def test_copies_beside_few_records_to_keep_certify_nobody() -> None:
    """Whoever chooses nine records to keep, and no controls, could hand in copies: the audit is open, and says what it needs."""
    table = simulated_table(references=8, seed=0)
    copied = {**ALL, **{f"reference {number}": "reference 1" for number in range(5, 9)}, "target": "reference 1"}
    for given, kept in ((table, 10), (table, 9), (with_copies(table, copied, 1e-3), 9)):
        judged = judge(with_few(given, kept), SETTINGS, Aside(None))
        assert (judged.verdict == "EQUIVALENT_WITHIN") == (kept == 10)
        assert ("at least 10 different records to keep" in str(judged.next_step)) == (kept == 9)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [9, 10])
def test_evidence_from_before_that_check_is_not_called_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """Recomputing says which check it lacks, and that of enough records is as before."""
    table = with_few(simulated_table(references=8, seed=0), kept)
    with monkeypatch.context() as before:
        before.setattr("verify.judging.record_claim.copies_gates", lambda *_: ())
        evidence = evidence_of(table, SETTINGS, Aside(None)).model_copy(update={"sets": audited_sets(table)})
    assert evidence.verdict == "EQUIVALENT_WITHIN"
    write_audit(evidence, table, tmp_path)
    if kept == 10:
        assert recompute(tmp_path) == evidence
        return
    with pytest.raises(RunError, match=r"leaves open whether the references are copies.*at least 10"):
        recompute(tmp_path)


def test_a_set_on_which_they_differ_clears_them() -> None:
    """References that agree on what they were trained on, having learned it by heart, and differ on what they never saw."""
    table = simulated_table(seed=4)
    blocks = dict(table.blocks)
    for number in range(1, 5):
        blocks[f"reference {number}", "retain"] = table.blocks["reference 1", "retain"]
    assert names(ScoreTable(blocks)) == []
