"""Power of a planned audit: the original and what will judge it are scored now, and honest targets are simulated."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from verify.auditing.accounts import account_of, controls_digest
from verify.auditing.audit_sets import compared_texts, draw_retain, load_whole_sets
from verify.auditing.commitments import find_rewordings
from verify.auditing.level_tables import TableJudge, by_table, table_judge
from verify.data.canaries import find_canaries
from verify.data.identity import RecordKey
from verify.data.reading import agreed_reading
from verify.data.records import Fields, RecordSource
from verify.data.rewording_files import RewordingSource
from verify.errors import InputError
from verify.io.arguments import checked
from verify.judging.measured_power import MeasuredPower, power_by_references, power_by_table
from verify.judging.protocol import Aside, blind_aside
from verify.models.memory import require_memory_for_loading
from verify.provenance.training_history import learning_rate_of
from verify.schema.evidence import Evidence
from verify.schema.settings import Settings
from verify.scores.channels import Channels
from verify.scores.scorer import Plan, Scorer
from verify.scores.table import ScoreTable

Progress = Callable[[float], None]
"""Called with the share that is done, in [0, 1]."""


@checked
def measure_power(
    original: Any,
    *,
    forget_set: RecordSource,
    references: Sequence[Any] = (),
    level_table: str | Path | None = None,
    level_table_key: str | Path | None = None,
    retain_set: RecordSource | None = None,
    holdout_set: RecordSource | None = None,
    fields: Fields | None = None,
    settings: Settings | None = None,
    rewordings: RewordingSource | None = None,
    accept: Collection[str] = (),
    approximate: bool = False,
    table_shared: bool = False,
    audited_before: int | None = None,
    progress: Progress = lambda _: None,
) -> MeasuredPower:
    """Estimate how often an audit with these arguments would certify an honest deletion.

    Every model is scored as the audit will score it, without membership attacks, which decide no record claim.

    Args:
        original: the model before unlearning.
        forget_set, references, level_table, level_table_key, retain_set, holdout_set, fields, settings, rewordings, accept: as they
            will be passed to `verify.audit`; at least two references, or a level table.
        approximate: whether the unlearning will start from the original's weights, and keep their utility.
        table_shared: whether the unlearning will read the method's half of the level table, so that the audit reads the other.
        audited_before: number of audits against the same controls that will come before it, by which it accuses at its share of
            alpha (`Settings(expected_audits=...)`); None takes it for the first.
        progress: called with the share that is done.

    Raises:
        InputError: as `verify.audit`, or there are fewer than two references and no level table.
    """
    if level_table is None and len(references) < 2:
        raise InputError(f"the power of an audit is measured with at least two references or a level table; got {len(references)}.")
    key = RecordKey.load()
    fields, settings = agreed_reading(fields, settings or Settings(), (original, *references))
    alone = level_table is not None or settings.shard_siblings
    whole = load_whole_sets(forget_set, retain_set, holdout_set, None, None, fields, original, with_controls=alone)
    sets = draw_retain(whole, settings)
    judging = table_judge(level_table, level_table_key, references, None, whole, key)
    if judging is not None and table_shared:
        judging = TableJudge(judging.table, judging.table.models_of("audit"))
    settings = by_table(settings, judging)
    words = find_rewordings(rewordings, None, sets, settings)
    rate = learning_rate_of(original)
    within = None if judging is None else judging.channels_in(rewordings, None, key)
    channels = Channels(sets, settings, key, None, references=len(references), rewordings=words, learning_rate=rate, within=within)
    coins, same, other = find_canaries(original), "weights" in accept, "configuration" in accept
    scorer = Scorer(sets, {}, settings, None, None, key, coins, same_weights=same, other_configuration=other, channels=channels)
    _score(scorer, original, references, settings.dtype, progress)
    digest = controls_digest(sets.get("holdout"), None if judging is None else judging.table.digest, key)
    aside = replace(blind_aside(*compared_texts(sets), settings), account=account_of(settings, digest, (), (), audited_before))
    if judging is None:
        return power_by_references(ScoreTable(scorer.blocks), settings, aside, approximate=approximate)
    return _by_table(scorer, judging, original, settings, aside)


def _by_table(scorer: Scorer, judging: TableJudge, original: Any, settings: Settings, aside: Aside) -> MeasuredPower:
    """Simulate audits by the level table, which must be that of the original that was scored."""
    scored = scorer.models[0]
    judging.require_original(scored.weights, scored.tokenizer, original)
    # A level table gives its numbers in the order of a target's records, which are the original's.
    as_target = {("target", role): block for (_, role), block in scorer.blocks.items()}
    table = ScoreTable({**scorer.blocks, **judging.blocks(as_target)})
    return power_by_table(table, settings, replace(aside, level_table=judging.used_on(scored.weights)))


def _score(scorer: Scorer, original: Any, references: Sequence[Any], dtype: str, progress: Progress) -> None:
    """Load and score the original and the references, one after another."""
    plans = [Plan("original", "original", original)]
    plans += [Plan(f"reference {number}", "reference", source) for number, source in enumerate(references, 1)]
    for place, plan in enumerate(plans):
        require_memory_for_loading(plan.source, dtype)
        scorer.score(plan, lambda share, place=place: progress((place + share) / len(plans)))  # type: ignore[misc]
    scorer.compare()


def power_of_audit(folder: str | Path) -> MeasuredPower:
    """Estimate how often the references or the level table of an audit that was made would certify an honest deletion.

    Args:
        folder: folder of the audit, with evidence.json and scores.parquet.

    Raises:
        InputError: the folder holds no whole audit, or one by rule 1 or with fewer than two references.
    """
    evidence, table = Evidence.load(Path(folder) / "evidence.json"), ScoreTable.load(Path(folder) / "scores.parquet")
    references = sum(model.role == "reference" for model in evidence.models)
    if evidence.settings.rule == 1 or (evidence.level_table is None and references < 2):
        raise InputError(
            f"{folder} is an audit by rule {evidence.settings.rule} with {references} references. Give one by rule 2 with at least "
            "two, or one by a level table."
        )
    aside = Aside(
        blind=evidence.blind,
        blind_p=evidence.blind_p,
        level_table=evidence.level_table,
        registered=evidence.registration,
        account=evidence.account,
    )
    if evidence.level_table is None:
        return power_by_references(table, evidence.settings, aside)
    return power_by_table(table, evidence.settings, aside)
