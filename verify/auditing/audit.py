"""Audits: score every model on every record, judge, and write the evidence.

Models are loaded one after another, so an audit with eight references needs the memory of one model.
"""

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from verify.attacks import select_attacks
from verify.auditing.audit_sets import load_sets, load_whole_sets
from verify.auditing.audited_models import Models
from verify.auditing.case import Progress, open_case
from verify.auditing.case_scores import score_case
from verify.auditing.commitments import commit, find_rewordings
from verify.auditing.conclusion import conclude, evidence_of
from verify.auditing.level_tables import by_table, table_judge
from verify.auditing.past import read_past
from verify.auditing.pinned_references import digests_of
from verify.auditing.registration import Registration
from verify.auditing.terms import agree_on_terms
from verify.data.canaries import Canaries, find_canaries
from verify.data.identity import RecordKey
from verify.data.reading import agreed_reading
from verify.data.records import Fields, RecordSource
from verify.data.rewording_files import RewordingSource
from verify.errors import InputError
from verify.io.arguments import checked
from verify.io.files import new_output, write_manifest
from verify.schema.evidence import Evidence
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable


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
            of templates, or rows (`verify.data.rewording_files`). Needs a holdout set and references.
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
    models = Models(model, original, base, tuple(references), tokenizer, accept, reference_proofs)
    sources = forget_set, retain_set, holdout_set, fresh_set, data
    terms = agree_on_terms(registration, settings, fields, models, sources)
    output = None if output_dir is None else new_output(output_dir)
    key = RecordKey.load()
    past = read_past(earlier, looks, audited_before, canaries, models)
    without_references = level_table is not None or terms.settings.shard_siblings
    records = load_whole_sets(*sources, terms.fields, original, with_controls=without_references)
    table = table_judge(level_table, level_table_key, references, model, records, key)
    # Before hours of scoring: these checks need no model.
    case = open_case(models, records, key, terms, past, table, rewordings, rewording_model, progress)
    scored = score_case(case, None if cache_dir is None else Path(cache_dir), progress)
    progress("judging", 1.0)
    found = conclude(case, scored)
    evidence = evidence_of(case, scored, found, started)
    if output is not None:
        write_audit(evidence, found.table, output)
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
        rewordings: a file of rewordings or templates. The registration holds a commitment to it that reveals nothing about it; the
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
    coins = None if canaries is None else _named_canaries(canaries)
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


def _named_canaries(place: str | Path) -> Canaries:
    """Read the canaries of a manifest, or of the model folder that contains one."""
    coins = find_canaries(place) if Path(place).is_dir() else Canaries.load(place)
    if coins is None:
        raise InputError(f"{place} holds no canaries. Give the folder of a model that was trained with --canaries, or none.")
    return coins
