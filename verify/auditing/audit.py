"""Audits: score every model on every record, judge, and write the evidence.

Models are loaded one after another, so an audit with eight references needs the memory of one model.
"""

import platform
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from verify.attacks import select_attacks
from verify.attacks.base import Attack
from verify.attacks.threat_models import threat_models
from verify.auditing.accounts import account_of, controls_digest
from verify.auditing.audit_sets import compared_texts, draw_retain, load_sets, load_whole_sets, near_duplicates_left
from verify.auditing.commitments import commit, find_rewordings, require_opened
from verify.auditing.input_checks import CheckedInputs, check_inputs
from verify.auditing.level_tables import TableJudge, by_table, require_unread_controls, table_judge, with_table
from verify.auditing.looks import found_looks, read_looks
from verify.auditing.pinned_references import digests_of, require_pinned, require_pinned_scored
from verify.auditing.registration import Registration
from verify.auditing.shard_siblings import check_shards, with_siblings
from verify.data.canaries import Canaries, find_canaries
from verify.data.identity import RecordKey
from verify.data.reading import agreed_reading, fields_for
from verify.data.records import Fields, Record, RecordSource
from verify.data.rewordings import Rewordings, RewordingSource
from verify.errors import InputError
from verify.io.arguments import checked
from verify.io.files import new_output, write_manifest
from verify.judging.protocol import Aside, blind_aside, judge
from verify.judging.representation_claim import judge_representation, worth_measuring
from verify.models.memory import require_memory_for_loading
from verify.provenance.training_history import learning_rate_of
from verify.schema.evidence import Environment, Evidence, Judgement, Settings
from verify.schema.near_duplicates import NearDuplicatesLeft
from verify.schema.parts import CoinBatch, RewordingsUsed, SetRole
from verify.schema.siblings import ShardChecked
from verify.scores.channels import Channels
from verify.scores.scorer import Plan, Scorer
from verify.scores.states import HiddenStates
from verify.scores.table import ScoreTable, audited_sets

Progress = Callable[[str, float], None]
"""Progress callback `(message, fraction_done)`."""


@checked
def audit(
    model: Any,
    original: Any,
    *,
    forget_set: RecordSource,
    base: Any = None,
    references: Sequence[Any] = (),
    level_table: str | Path | None = None,
    level_table_key: str | Path | None = None,
    retain_set: RecordSource | None = None,
    holdout_set: RecordSource | None = None,
    fresh_set: RecordSource | None = None,
    data: RecordSource | None = None,
    fields: Fields | None = None,
    tokenizer: Any = None,
    output_dir: str | Path | None = None,
    settings: Settings | None = None,
    registration: str | Path | None = None,
    canaries: str | Path | None = None,
    earlier: Sequence[str | Path] = (),
    audited_before: int | None = None,
    looks: Sequence[str | Path] = (),
    rewordings: RewordingSource | None = None,
    rewording_model: Any = None,
    cache_dir: str | Path | None = None,
    accept: Collection[str] = (),
    reference_proofs: Sequence[str | Path] = (),
    progress: Progress = lambda _, __: None,
) -> Evidence:
    """Audit whether a forget set was removed from a model.

    Args:
        model: the unlearned model: a folder, a Hub name, or a model in memory (which needs `tokenizer`).
        original: the model before unlearning.
        forget_set: the records that were to be removed, or a list of ids if `data` is given.
        base: the model before fine-tuning; the reference attack needs it.
        references: models fine-tuned like the original but without the forget set, with other seeds; 4 to 8 of them.
        level_table: folder of a level table, which judges in place of references and costs no training: losses of the records under
            models that never saw them, measured before any request. Needs its controls for the audit as the holdout set.
        level_table_key: public key of whoever is trusted to have signed the table.
        retain_set: records the model was to keep; for the utility gate.
        holdout_set: records like the forget set that no model was trained on; for membership attacks and, where they were drawn
            at random from the same records (`Settings(twins=True)`), as held-out controls of Tier C.
        fresh_set: texts of the forget set's subjects that no model was trained on; for the user level.
        data: the file the original was trained on.
        fields: column names; None uses those the original was trained with, where its manifest records them.
        tokenizer: a tokenizer or its folder, for models in memory.
        output_dir: folder for `evidence.json`, `scores.parquet` and `report.html`; None writes nothing.
        settings: margins, levels, attacks and seed; the defaults are the protocol's.
        registration: the file that `register` wrote before unlearning; settings and sets must match it.
        canaries: the canary manifest of the original's training; the default is the one in the original's folder.
        earlier: evidence files of earlier deletions. Their canaries count in the e-value, and those that were audited against the
            same controls in the account of these (`Settings(expected_audits=...)`).
        audited_before: number of earlier audits against the same controls, as a ledger counted them, in place of counting the
            evidence that is given. Those in `earlier` and `looks` are among them: a smaller number than they show is refused.
        looks: evidence files of earlier audits of the same weights, which page 1 and the certificate name.
        rewordings: the forget and holdout records in other words, which nobody who made the model has seen: a file of rewordings or
            of templates, or rows (`verify.data.rewordings`). Needs a holdout set and references.
        rewording_model: an instruction model that words them instead: a folder, a Hub name or a `LoadedModel`.
        cache_dir: folder in which token statistics are kept between audits; None keeps none.
        accept: intended differences between a reference and a retraining of the original without the forget set, by their names
            in `verify.schema.differences.ReferenceDifference`; "used_holdout" where the unlearning was allowed to read the
            holdout set. References whose training logs show any other difference are refused. The evidence records what was
            accepted.
        reference_proofs: files that `reexecute` wrote about references: their training was executed again without the forget set.
            The auditor chooses which, after the references were handed in.
        progress: called with a message and the fraction of the audit that is done.

    Raises:
        InputError: records or models cannot be used, or a reference is not a retraining of the original without the forget set;
            the message says what to do.
    """
    started = time.monotonic()
    registered = _past_registration(registration)
    given_sets = forget_set, retain_set, holdout_set, fresh_set, data
    fields = fields_for(fields, (original, model), given_sets)
    settings = _settings(settings, registered)
    fields, settings = agreed_reading(fields, settings, (original, model, *references), registered is not None)
    output = None if output_dir is None else new_output(output_dir)
    key = RecordKey.load()
    deletions = [Evidence.load(path) for path in earlier]
    coins, commitment, batches = _canaries(canaries, original, deletions)
    earlier_audits = read_looks(looks, model)
    named = None if registered is None else registered.named()
    alone = level_table is not None or settings.shard_siblings
    whole = load_whole_sets(*given_sets, fields, original, with_controls=alone)
    sets = draw_retain(whole, settings)
    judging = table_judge(level_table, level_table_key, references, model, whole, key)
    _require_as_registered(registered, sets, key, commitment, references, judging)
    require_unread_controls(judging, accept)
    settings = by_table(settings, judging)
    controls = controls_digest(sets.get("holdout"), None if judging is None else judging.table.digest, key)
    account = account_of(settings, controls, deletions, earlier_audits, audited_before, canaries=commitment is not None)
    within = None if judging is None else judging.channels_in(rewordings, rewording_model, key)
    committed = require_opened(None if registered is None else registered.rewordings, rewordings, rewording_model)
    models = {"original": original, "target": model, **({} if base is None else {"base": base})}
    given = check_inputs(models, references, whole, coins, key, tokenizer, accept, reference_proofs)
    shards = check_shards(model, original, whole, key) if settings.shard_siblings else None
    attacks = select_attacks(settings.attacks)
    settings = settings.model_copy(update={"attacks": tuple(attacks)})
    # Before hours of scoring: these checks need no model.
    blind = blind_aside(*compared_texts(sets), settings)
    aside = replace(blind, commitment=commitment, earlier=batches, registered=named, account=account)
    cache = None if cache_dir is None else Path(cache_dir)
    words = find_rewordings(rewordings, rewording_model, sets, settings, lambda message, _: progress(message, 0.0))
    progress("looking for near-duplicates among the records to keep", 0.0)
    staying = near_duplicates_left(whole, key)
    rate = learning_rate_of(original)
    channels = Channels(sets, settings, key, cache, references=len(references), rewordings=words, learning_rate=rate, within=within)
    states = _hidden_states(sets, settings, len(references))
    scorer = _scorer(sets, attacks, settings, tokenizer, cache, key, coins, accept, channels, states)
    _score(scorer, _plans(model, original, base, references), settings.dtype, registered, judging, progress)
    progress("judging", 1.0)
    aside = replace(aside, representation=None if states is None else judge_representation(states, settings.alpha))
    table, aside = with_table(judging, scorer, replace(aside, not_run=channels.listed()))
    table, single = with_siblings(shards, table, scorer, tokenizer, base)
    judged = judge(table, settings, aside)
    given = given.with_same_weights(scorer.same_weights).with_executions(scorer.models)
    used = _used(words, table, committed, key)
    evidence = _evidence(judged, scorer, table, settings, aside, given, channels, used, staying, single, earlier_audits, started)
    if output is not None:
        write_audit(evidence, table, output)
    return evidence


@checked
def register(
    path: str | Path,
    *,
    forget_set: RecordSource,
    retain_set: RecordSource | None = None,
    holdout_set: RecordSource | None = None,
    fresh_set: RecordSource | None = None,
    data: RecordSource | None = None,
    fields: Fields | None = None,
    settings: Settings | None = None,
    canaries: str | Path | None = None,
    rewordings: str | Path | None = None,
    references: Sequence[Any] = (),
    level_table: str | Path | None = None,
) -> Registration:
    """Fix what will be audited and how, before unlearning. Give the digest to an independent party.

    Args:
        path: a new file.
        forget_set, retain_set, holdout_set, fresh_set, data, fields, settings: as they will be passed to `audit`.
        canaries: the canary manifest of the training run, or the model folder that contains it.
        rewordings: a file of rewordings or templates. The registration holds a commitment to it that tells nothing about it; the
            salt that opens it is written beside the file. Keep both to yourself until the model is handed in.
        references: the references that the audit will use; it refuses to leave one out, and may add others.
        level_table: folder of the level table that will judge in place of retrained references; the registration names its digest.

    Raises:
        InputError: records, rewordings, references or the table cannot be used, or the file exists.
    """
    settings = settings or Settings()
    fields, settings = agreed_reading(fields, settings, ())
    settings = settings.model_copy(update={"attacks": tuple(select_attacks(settings.attacks))})
    alone = level_table is not None or settings.shard_siblings
    sets = load_sets(forget_set, retain_set, holdout_set, fresh_set, data, fields, settings, with_controls=alone)
    coins = None
    if canaries is not None:
        coins = find_canaries(canaries) if Path(canaries).is_dir() else Canaries.load(canaries)
        if coins is None:
            raise InputError(f"{canaries} holds no canaries. Give the folder of a model that was trained with --canaries, or none.")
    committed = None
    if rewordings is not None:
        find_rewordings(rewordings, None, sets, settings)  # what the audit would refuse is refused now
        committed = commit(rewordings)
    key, coin_commitment = RecordKey.load(), None if coins is None else coins.commitment
    judging = table_judge(level_table, None, references, None, sets, key)
    settings = by_table(settings, judging)
    named = None if judging is None else judging.table.digest
    pinned = digests_of(references, settings.dtype)
    registration = Registration.of(sets, settings, key, coin_commitment, committed, pinned, named)
    registration.save(path)
    return registration


def write_audit(evidence: Evidence, table: ScoreTable, output: Path) -> None:
    """Write the three files of an audit and their manifest."""
    table.save(output / "scores.parquet")
    evidence.save(output / "evidence.json")
    # Imported here so that `import verify.auditing` loads neither matplotlib nor jinja2.
    from verify.report.html import write_report

    write_report(evidence, output / "report.html")
    write_manifest(output, "audit", {"verdict": evidence.verdict})


def _past_registration(path: str | Path | None) -> Registration | None:
    """Load the registration, which must be older than now; None without one."""
    if path is None:
        return None
    registered = Registration.load(path)
    registered.require_past(datetime.now(UTC))
    return registered


def _require_as_registered(
    registered: Registration | None,
    sets: Mapping[SetRole, Sequence[Record]],
    key: RecordKey,
    commitment: str | None,
    references: Sequence[Any],
    judging: TableJudge | None,
) -> None:
    """Refuse records, canaries, references or a judge other than the registered ones; nothing is refused without a registration."""
    if registered is None:
        return
    registered.require(sets, key, commitment)
    require_pinned(registered.references, references)
    registered.require_judge(None if judging is None else judging.table.digest)


def _settings(settings: Settings | None, registered: Registration | None) -> Settings:
    if registered is None:
        return settings or Settings()
    if settings is not None:
        attacks = tuple(select_attacks(settings.attacks))
        # The rule is no choice of its own: it follows from what judges, which the registration names.
        rule = registered.settings.rule if registered.level_table is not None else settings.rule
        if settings.model_copy(update={"attacks": attacks, "rule": rule}) != registered.settings:
            raise InputError("the settings differ from the registered ones. Leave them out: they are read from the registration.")
    return registered.settings


def _canaries(
    given: str | Path | None, original: Any, earlier: Sequence[Evidence]
) -> tuple[Canaries | None, str | None, tuple[CoinBatch, ...]]:
    """Read the audit's canaries, the commitment to their assignment, and the counts of earlier deletions' canaries."""
    coins = find_canaries(original) if given is None else Canaries.load(given)
    commitment = None if coins is None else coins.commitment
    return coins, commitment, _earlier_batches(earlier, commitment)


def _earlier_batches(earlier: Sequence[Evidence], commitment: str | None) -> tuple[CoinBatch, ...]:
    """Return the canary counts of earlier deletions; one set of canaries may count only once in the e-value."""
    if commitment is None:
        return ()
    batches: list[CoinBatch] = []
    for process in (one.process for one in earlier if one.process is not None):
        batches += [batch for batch in process.batches if batch not in batches]
    commitments = [commitment, *(batch.commitment for batch in batches)]
    if len(set(commitments)) < len(commitments):
        raise InputError("an earlier audit used the same canaries, which may count only once. Leave it out of --earlier.")
    return tuple(batches)


def _plans(model: Any, original: Any, base: Any, references: Sequence[Any]) -> list[Plan]:
    """List the models in the order that `Scorer` requires."""
    return [
        *([] if base is None else [Plan("base", "base", base)]),
        Plan("original", "original", original),
        Plan("target", "target", model),
        *(Plan(f"reference {number}", "reference", source) for number, source in enumerate(references, 1)),
    ]


def _require_memory(plans: Sequence[Plan], dtype: str) -> None:
    """Refuse an audit of a model that does not fit into memory, before hours of scoring; one is loaded at a time."""
    for plan in plans:
        require_memory_for_loading(plan.source, dtype)


def _score(
    scorer: Scorer,
    plans: Sequence[Plan],
    dtype: str,
    registered: Registration | None,
    judging: TableJudge | None,
    progress: Progress,
) -> None:
    """Load and score one model after another, then run the attacks that compare them.

    Raises:
        InputError: a model does not fit into memory, the level table is another model's, or registered references were not scored.
    """
    _require_memory(plans, dtype)

    def report(place: int, label: str, share: float) -> None:
        progress(f"scoring {label}", (place + share) / len(plans))

    for place, plan in enumerate(plans):
        report(place, plan.label, 0.0)
        scorer.score(plan, partial(report, place, plan.label))
        if plan.role == "original" and judging is not None:
            judging.require_original(scorer.models[-1].weights, scorer.models[-1].tokenizer, plan.source)
    scorer.compare()
    require_pinned_scored(() if registered is None else registered.references, scorer.models, dtype)


def _scorer(
    sets: Mapping[SetRole, Sequence[Record]],
    attacks: Mapping[str, Attack],
    settings: Settings,
    tokenizer: Any,
    cache: Path | None,
    key: RecordKey,
    coins: Canaries | None,
    accept: Collection[str],
    channels: Channels,
    states: HiddenStates | None,
) -> Scorer:
    """Prepare the scoring of all models; `accept` says which differences between them are intended."""
    return Scorer(
        sets,
        attacks,
        settings,
        tokenizer,
        cache,
        key,
        coins,
        same_weights="weights" in accept,
        other_configuration="configuration" in accept,
        channels=channels,
        states=states,
    )


def _hidden_states(sets: Mapping[SetRole, Sequence[Record]], settings: Settings, references: int) -> HiddenStates | None:
    """Prepare the representation claim; None where the audit lacks what it needs, or asks by the exact text alone."""
    if settings.rule == 1 or settings.channels == ("exact",):
        return None
    states = HiddenStates(sets, settings.overflow, settings.seed)
    return states if worth_measuring(states, references) else None


def _evidence(
    judged: Judgement,
    scorer: Scorer,
    table: ScoreTable,
    settings: Settings,
    aside: Aside,
    given: CheckedInputs,
    channels: Channels,
    used: RewordingsUsed | None,
    staying: NearDuplicatesLeft | None,
    single: tuple[ShardChecked, ...] | None,
    earlier: Sequence[Evidence],
    started: float,
) -> Evidence:
    """Put together what the audit found, and name the earlier audits of the same weights."""
    evidence = Evidence(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_seconds=time.monotonic() - started,
        registration=aside.registered,
        level_table=aside.level_table,
        account=aside.account,
        references_checked=given.references,
        holdout_checked=given.holdout,
        shards_checked=single,
        near_duplicates=staying,
        settings=_resolved(settings, table, channels),
        models=tuple(scorer.models),
        configuration_differences=tuple(scorer.configurations.found),
        sets=audited_sets(table),
        not_run=scorer.not_run(),
        threats=threat_models(),
        environment=_environment(scorer.device),
        **dict(judged),
    )
    looks = found_looks(earlier, evidence)
    return evidence.model_copy(update={"channels_not_run": channels.listed(), "rewordings": used, "looks": looks})


def _resolved(settings: Settings, table: ScoreTable, channels: Channels) -> Settings:
    """Return the settings with the learning rate that relearning used, where it ran."""
    return settings.model_copy(update={"relearning_rate": channels.rate}) if "relearned" in table.channels() else settings


def _used(words: Rewordings | None, table: ScoreTable, committed: bool, key: RecordKey) -> RewordingsUsed | None:
    """Return what the evidence says about the rewordings; None where no model was asked in other words."""
    if words is None or "rewording 1" not in table.channels():
        return None
    digest = key.of(words.digest, "rewordings")
    return RewordingsUsed(source=words.source, count=words.count, digest=digest, committed=committed, model=words.model)


def _environment(device: str) -> Environment:
    return Environment(
        unlearn_verify=metadata.version("unlearn-verify"),
        python=sys.version.split()[0],
        torch=metadata.version("torch"),
        transformers=metadata.version("transformers"),
        numpy=metadata.version("numpy"),
        scipy=metadata.version("scipy"),
        platform=platform.platform(),
        device=device,
    )
