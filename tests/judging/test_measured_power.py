"""What a plan promises: measured with the references that are there and with every gate, it is what then happens."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audits import BY_TABLE, LEVEL_TABLE, TABLE_ASIDE
from score_tables import simulated_table, table_with_pool, with_channels

import verify.cli.main
from verify import Settings
from verify.auditing.audit import write_audit
from verify.judging import level_table_claim, measured_power, record_claim
from verify.judging.level_table_claim import TableInput
from verify.judging.measured_power import MeasuredPower, power_by_references, power_by_table
from verify.judging.protocol import Aside, judge
from verify.schema.parts import Gate
from verify.scores.table import ScoreTable
from verify.statistics.intervals import clopper_pearson

QUICK = Settings(planted_draws=40)
NOTHING = Aside()


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate of 40 draws; what is tried for more references of 10."""
    monkeypatch.setattr(measured_power, "DRAWS", 40)
    monkeypatch.setattr(measured_power, "ROUGH_DRAWS", 10)


def power(**world: Any) -> MeasuredPower:
    return power_by_references(simulated_table(**world), QUICK, NOTHING)


def names(found: MeasuredPower) -> list[str]:
    return [gate.name for gate in found.obstacles]


@pytest.mark.slow
def test_the_spread_of_the_references_decides() -> None:
    """Alike, they certify nearly every honest deletion; where they differ by more than the margin, hardly any."""
    alike, apart = power(model_spread=0.01), power(model_spread=0.2, references=8)
    assert names(alike) == []
    assert alike.certified.value > 0.9
    assert alike.needed is None
    assert apart.certified.value < 0.2
    assert apart.accused.value < 0.1
    assert "of simulated honest deletions are certified" in alike.words
    between = power(model_spread=0.08, seed=3)
    assert between.needed is None or between.certified.value < 0.8


@pytest.mark.slow
def test_gates_that_no_target_can_pass_are_named() -> None:
    """Two references, no retain set, nothing memorized: whatever the target, nothing is certified, and the plan says why."""
    assert names(power(references=2))[0] == "retrained references"
    assert "utility" in names(power(retain=False))
    unknown = power(gap=0.02)
    assert "positive control" in names(unknown)
    assert unknown.words.startswith("no honest deletion would be certified: positive control: The same rule does not detect")


@pytest.mark.slow
def test_utility_counts_on_both_sides() -> None:
    """An approximate method keeps the original's utility: far above or below the references' nothing passes, as in an audit."""
    table = simulated_table(model_spread=0.01)
    for shift in (-0.5, 0.5):
        blocks = dict(table.blocks)
        block = blocks["original", "retain"]
        blocks["original", "retain"] = replace(block, loss=block.loss + shift)
        moved = ScoreTable(blocks)
        assert power_by_references(moved, QUICK, NOTHING).certified.value > 0.9, "a retraining is as the references are"
        found = power_by_references(moved, QUICK, NOTHING, approximate=True)
        assert found.certified.value == 0.0
        assert names(found) == []


@pytest.mark.slow
def test_every_way_of_asking_counts() -> None:
    """References that differ in one way of asking alone certify less often: its tests are among those simulated."""
    channels = {"instruction": 0.0, "no prompt": 0.0}
    quiet = with_channels(simulated_table(model_spread=0.01), channels, noise=0.1)
    loud = with_channels(simulated_table(model_spread=0.01), channels, noise=0.1)
    blocks, rng = dict(loud.blocks), np.random.default_rng(5)
    for (model, role), block in loud.blocks.items():
        if model.startswith("reference") and role == "forget":
            blocks[model, role] = replace(
                block, channels={**block.channels, "no prompt": block.channels["no prompt"] + rng.normal(0, 0.6)}
            )
    found = [power_by_references(ScoreTable(one), QUICK, NOTHING) for one in (quiet.blocks, blocks)]
    assert found[0].certified.value > 0.85
    assert found[0].certified.value > found[1].certified.value + 0.15 or found[1].obstacles


@pytest.mark.slow
def test_by_references_the_promise_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """In worlds where about half of the honest deletions are certified, the measured share is that of true ones, on average."""
    monkeypatch.setattr(measured_power, "DRAWS", 20)
    monkeypatch.setattr(measured_power, "_needed", lambda *_: None)
    monkeypatch.setattr(record_claim, "smallest_margin", lambda _: None)  # no verdict depends on it

    def measured(table: ScoreTable) -> float:
        found = power_by_references(table, QUICK, NOTHING)
        return 0.0 if found.obstacles else found.certified.value

    kept(measured, lambda table: judge(table, QUICK, NOTHING).verdict, lambda seed: simulated_table(model_spread=0.06, seed=seed))


@pytest.mark.slow
def test_by_a_level_table_the_promise_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with twelve people, little memorized, and forty control subjects."""
    monkeypatch.setattr(measured_power, "DRAWS", 8)
    monkeypatch.setattr(level_table_claim, "smallest_margin", lambda _: None)  # no verdict depends on it
    settings = BY_TABLE.model_copy(update={"planted_draws": 8})

    def measured(table: ScoreTable) -> float:
        found = power_by_table(table, settings, TABLE_ASIDE)
        return 0.0 if found.obstacles else found.certified.value

    def world(seed: int) -> ScoreTable:
        return table_with_pool(people=8, gap=1.0, controls=30, seed=seed)

    kept(measured, lambda table: judge(table, settings, TABLE_ASIDE).verdict, world)


def kept(measured: Callable[[ScoreTable], float], verdict: Callable[[ScoreTable], str], world: Callable[[int], ScoreTable]) -> None:
    """The mean promise over worlds lies within the exact interval of the share of them whose own target is certified, widened.

    With 30 worlds, of which half are certified, that interval reaches 0.24 to either side: a promise of nearly everything, or of
    hardly anything, is found.
    """
    worlds = [world(seed) for seed in range(30)]
    promised = float(np.mean([measured(table) for table in worlds]))
    true = clopper_pearson(sum(verdict(table) == "EQUIVALENT_WITHIN" for table in worlds), len(worlds), 0.99)
    assert true.low <= promised <= true.high, (promised, true)


@pytest.mark.slow
def test_a_level_table_of_one_person_promises_nothing() -> None:
    """It can accuse one person's deletion, never certify it; of twenty people nearly every honest one is certified."""
    settings = BY_TABLE.model_copy(update={"planted_draws": 20})
    alone = power_by_table(table_with_pool(people=1), settings, TABLE_ASIDE)
    assert "several subjects" in names(alone)
    several = power_by_table(table_with_pool(), settings, TABLE_ASIDE)
    assert several.certified.value > 0.8
    assert names(several) == []
    retain = power_by_table(table_with_pool(retain=False), settings, TABLE_ASIDE)
    assert names(retain) == ["utility"]


def test_a_share_of_alpha_repeats_no_check_of_the_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw is judged at its share of alpha and at all of it; the controls, which no share concerns, are checked once."""
    made: list[Gate] = []
    check = measured_power.controls_gate
    monkeypatch.setattr(measured_power, "controls_gate", lambda *given: made.append(check(*given)) or made[-1])
    asked = TableInput.of(table_with_pool(people=2, controls=8), LEVEL_TABLE.seed, 0.5)
    assert measured_power._outcome_by_table(asked, BY_TABLE) == "EQUIVALENT_WITHIN"
    assert [gate.name for gate in made] == ["controls unseen"]


@pytest.mark.slow
def test_the_power_of_an_audit_that_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`power --audit` prints it from evidence and scores; the target of that audit plays no part."""
    from audits import evidence_of

    said = []
    for number, changes in enumerate(({}, {"kept": 1.0})):
        table = simulated_table(model_spread=0.01, **changes)
        folder = tmp_path / str(number)
        folder.mkdir()
        write_audit(evidence_of(table, QUICK), table, folder)
        assert verify.cli.main.main(["power", "--audit", str(folder)]) == 0
        said.append(capsys.readouterr().out)
    assert "of simulated honest deletions are certified" in said[0]
    assert verify.cli.main.main(["power", "--audit", str(tmp_path / "absent")]) == 2
