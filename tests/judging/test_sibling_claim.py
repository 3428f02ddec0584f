"""The claim of shard siblings: what it accuses, what keeps it from judging, and that it never certifies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audits import BLIND, evidence_of
from score_tables import simulated_table

from verify import InputError, Settings, summary
from verify.auditing.power import shard_rows
from verify.auditing.recompute import recompute
from verify.judging.protocol import Aside, judge
from verify.judging.sibling_claim import shards_needed
from verify.report.html import render
from verify.schema.evidence import Evidence
from verify.schema.judged_by import ControlsAccount
from verify.scores.table import BEFORE, SHARD, ScoreBlock, ScoreTable, audited_sets
from verify.statistics.simulation import World

SETTINGS = Settings(planted_draws=20, shard_siblings=True)


def with_shards(
    shards: int = 44, *, kept: float = 0.0, gap: float = 2.0, level: float = 0.0, references: int = 0, groups: int = 1
) -> ScoreTable:
    """Scores of a model in shards, of which the first `groups` held the forget records and kept a share of them.

    Args:
        shards: S.
        kept: share of the gap that the rebuilt shards still have.
        gap: what they knew of each record before, nats per token.
        level: added to the losses of the rebuilt shards on everything.
        references: retrained references of the whole model.
        groups: rebuilt shards; each held as many of the records.
    """
    table = simulated_table(references=references, records=12, controls=12, kept=kept)
    rng = np.random.default_rng(5)
    blocks = dict(table.blocks)
    forget, holdout = (table.blocks["target", role] for role in ("forget", "holdout"))
    easy = rng.normal(3.5, 0.5, (2, 12))
    for shard in range(shards):
        own = np.arange(12) % groups == shard
        loss = easy + rng.normal(0, 0.1, (2, 12)) + (level if shard < groups else 0.0)
        if shard < groups:
            before = loss.copy()
            before[0] -= gap
            blocks[f"{SHARD}{shard}{BEFORE}", "forget"] = block(forget, before[0], own)
            blocks[f"{SHARD}{shard}{BEFORE}", "holdout"] = block(holdout, before[1])
        loss[0] -= kept * gap * own
        blocks[f"{SHARD}{shard}", "forget"] = block(forget, loss[0])
        blocks[f"{SHARD}{shard}", "holdout"] = block(holdout, loss[1])
    return ScoreTable(blocks)


def block(like: ScoreBlock, loss: np.ndarray, chosen: np.ndarray | None = None) -> ScoreBlock:
    rows = np.arange(len(loss)) if chosen is None else np.flatnonzero(chosen)
    names = tuple(like.records[row] for row in rows), tuple(like.subjects[row] for row in rows)
    return ScoreBlock(*names, like.tokens[rows], loss[rows], {})


def judged(settings: Settings = SETTINGS, aside: Aside | None = None, **world: Any) -> Any:
    return judge(with_shards(**world), settings, aside or Aside(BLIND))


def test_what_was_kept_is_found_and_an_honest_rebuild_stays_open() -> None:
    """Of 44 shards the one that kept everything has the lowest rank; an honest one is in the middle, and is not certified."""
    kept, honest = judged(kept=1.0), judged()
    assert (kept.verdict, kept.accused_by, kept.tiers) == ("NOT_FORGOTTEN", ("shard siblings",), ("shard siblings",))
    assert kept.siblings.ranked[0].remembered == kept.siblings.smallest == 1 / 44
    assert (honest.verdict, honest.siblings.verdict) == ("INCONCLUSIVE", "INCONCLUSIVE")
    assert honest.siblings.ranked[0].remembered > 1 / 44
    assert "no rank certifies" in honest.siblings.reason
    assert kept.siblings.ranked[0].gap == pytest.approx(2.0, abs=0.3)


@pytest.mark.parametrize(
    ("world", "said"),
    [
        ({"shards": 8, "kept": 1.0}, "No p-value of 8 shards lies below 1 / 8 = 0.125, and both directions need 40 shards"),
        ({"level": 3.0}, "On the never-trained controls shard 0 lies apart from its siblings"),
        ({"gap": 0.01}, "Before the deletion shard 0 did not know the records better than every sibling"),
        ({"shards": 44, "kept": 1.0, "groups": 2}, "both directions need 80 shards"),
    ],
)
def test_what_keeps_a_rank_from_judging(world: dict[str, Any], said: str) -> None:
    """Too few shards for their number of rebuilt ones, a shard unlike the others, and records that were never memorized."""
    found = judged(**world)
    assert (found.siblings.verdict, found.verdict) == ("NOT_TESTABLE", "NOT_TESTABLE")
    assert said in found.siblings.reason
    assert any(said in sentence for sentence in found.explanation)
    assert ("shard siblings" in found.tiers) == (found.siblings.shards >= found.siblings.needed)
    assert ("too few shards for a rank to accuse" in found.scope) == (not found.tiers)


@pytest.mark.slow
def test_a_rank_that_can_accuse_shares_alpha_and_others_keep_all_of_it() -> None:
    """With references the claim takes half of alpha where 80 shards can use it; 44 cannot, and leave the references all of it."""
    few, many = (judged(shards=shards, references=4) for shards in (44, 80))
    alone = judge(simulated_table(references=4, records=12, controls=12), Settings(planted_draws=20), Aside(BLIND))
    assert few.tests == alone.tests
    assert (few.siblings.verdict, few.siblings.needed) == ("NOT_TESTABLE", 80)
    assert many.tests != alone.tests
    assert "shard siblings" in many.tiers
    assert many.siblings.needed == 80


def test_the_account_of_the_controls_counts_for_ranks() -> None:
    """At a twentieth of nine tenths of alpha 889 shards are needed, which 44 are not."""
    planned = SETTINGS.model_copy(update={"expected_audits": 20})
    found = judged(planned, Aside(BLIND, account=ControlsAccount.of(0.05, 20, "c" * 64, 1)), kept=1.0)
    assert (found.siblings.verdict, found.siblings.needed) == ("NOT_TESTABLE", 889)
    assert [shards_needed(groups, 0.05) for groups in (1, 2)] == [40, 80]


@pytest.mark.slow
def test_documents_say_what_ranked_and_the_verdict_recomputes(tmp_path: Path) -> None:
    """Page, summary and evidence name shards, floor and what it takes; scores of shards are read back; older files have none."""
    table = with_shards(8)
    found = evidence_of(table, SETTINGS).model_copy(update={"sets": audited_sets(table)})
    for text in (render(found), summary(found)):
        assert "Ranked among 8 shards: by their training logs none of them saw these records" in text
        assert "no p-value lies below 1 / 8 = 0.125; it accuses from 40 shards on, and certifies nothing" in text
    assert {model.label for model in found.models} == {"original", "target"}
    table.save(tmp_path / "scores.parquet")
    found.save(tmp_path / "evidence.json")
    assert recompute(tmp_path) == found == Evidence.load(tmp_path / "evidence.json")
    assert ScoreTable.load(tmp_path / "scores.parquet").shards() == table.shards()
    plain = evidence_of(simulated_table(records=12, controls=12))
    assert not {"siblings", "shards_checked", "shard_siblings"} & set(plain.text().split('"'))


def test_a_table_that_hides_its_shards_is_refused(tmp_path: Path) -> None:
    """A file of an earlier schema has no shards, and one of this schema has some."""
    import pyarrow.parquet as pq

    with_shards(3).save(tmp_path / "s.parquet")
    simulated_table(records=12, controls=12).save(tmp_path / "p.parquet")
    for name, schema in (("s.parquet", b"unlearn-verify/scores/1"), ("p.parquet", b"unlearn-verify/scores/4")):
        rows = pq.read_table(tmp_path / name)
        pq.write_table(rows.replace_schema_metadata({b"schema": schema}), tmp_path / "changed.parquet")
        with pytest.raises(InputError, match="not a whole score table"):
            ScoreTable.load(tmp_path / "changed.parquet")


def test_power_names_the_floor() -> None:
    """Eight shards cannot accuse, forty find what was wholly kept, and no number certifies; one shard has no siblings."""
    world = World(records=4)
    rows = [{row.claim: row.given for row in shard_rows(world, shards, Settings())} for shards in (8, 40)]
    kept = "shard siblings: accuse a rebuilt shard that keeps 100% of what it had memorized"
    assert rows[0][kept] == "cannot: p-values of 8 shards are at least 1 / 8"
    assert rows[1][kept] == "100% of audits"
    assert all(table["shard siblings: certify an honest rebuild"] == "cannot: a rank certifies nothing" for table in rows)
    with pytest.raises(InputError, match="at least 2"):
        shard_rows(world, 1, Settings())


def test_shards_without_the_setting_judge_nothing() -> None:
    """Only what was decided beforehand is judged."""
    assert judge(with_shards(), replace_settings(shard_siblings=False), Aside(BLIND)).siblings is None


def replace_settings(**changes: Any) -> Settings:
    return SETTINGS.model_copy(update=changes)
