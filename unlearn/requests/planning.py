"""Plan deletions: group approved requests into batches, and choose models, records and methods.

Requests that touch the same models and have close deadlines are answered in one batch: one rebuild instead of several. A plan is a
proposal until it is recorded; `--dry-run` records nothing.

Every plan searches the files again until a request's audits are registered. From then on its records are fixed, so that nobody can
leave out a record because of what an audit has shown.
"""

import dataclasses
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from unlearn.requests.audit_numbers import NextAudits, left_by
from unlearn.requests.audit_power import can_be_measured, describe_power
from unlearn.requests.batch_state import PLANNABLE, replaced_weights
from unlearn.requests.candidates import (
    EXECUTABLE,
    FROM_LOG,
    candidate_methods,
    describe_judge,
    expected_cost,
    require_methods,
)
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.request import Request
from unlearn.requests.ledger.roles import OPERATOR
from unlearn.requests.level_tables import Judge, judge_of
from unlearn.requests.matching import Matched, match_requests
from unlearn.requests.plan import Plan, PlannedModel, PlannedProof
from unlearn.requests.preflight import Runnable, require_runnable
from unlearn.requests.proofs import Commitments, obstacle, planned_proof
from unlearn.requests.training_sets import require_clean
from unlearn.scan.lineage import AffectedModel, affected_models
from verify.data.identity import RecordKey
from verify.data.records import Fields
from verify.errors import InputError
from verify.io.files import MANIFEST, is_complete, read_json
from verify.provenance.descent import named_base_of, trained_records
from verify.provenance.shard_plan import SHARDS
from verify.provenance.training_log import LOG_NAME
from verify.schema.deletion_record import DataPlace
from verify.schema.differences import ReferenceDifference
from verify.schema.evidence import Evidence, Settings
from verify.schema.reexecution import Reexecution

DEFAULT_STATES = ("identity_verified", "matched")


@dataclass(frozen=True)
class Choices:
    """Inputs and options of a plan, as the operator gives them.

    Attributes:
        data: training files.
        models: folders to search for models.
        search: further folders to search for copies of deleted data.
        in_service: the models that answer users; may be empty if only one affected model is found.
        output: folder of the batches; searched for models as well.
        references: models trained without the records; without any, a model's level table judges its audits, if it has one.
        level_table: folder of that table, if it is not in the folder of a model.
        level_table_key: file of the public key of whoever is trusted to have signed it; None does not check the signature.
        base: the model before fine-tuning; None if the models' manifests name it.
        holdout: records that no model was trained on; divided by subject, half for the method and half for the audit.
        rewordings: file of rewordings or templates, in whose words the audit also asks.
        accept_reference_differences: how references may differ from retrainings, by their names in `verify.audit`.
        methods: methods to try before the exact rebuild.
        commitments: files of commitments to the models' trainings, written before the requests.
        reexecution: whether an exact rebuild is executed again as its proof.
        window: requests whose deadlines are at most this many days apart are answered together.
        settings: settings of the audit.
        fields: column names of the training files.
    """

    data: tuple[str, ...]
    models: tuple[str, ...]
    search: tuple[str, ...] = ()
    in_service: tuple[str, ...] = ()
    output: Path = Path("deletions")
    references: tuple[str, ...] = ()
    level_table: str | None = None
    level_table_key: str | None = None
    base: str | None = None
    holdout: str | None = None
    rewordings: str | None = None
    accept_reference_differences: tuple[ReferenceDifference, ...] = ()
    methods: tuple[str, ...] = ()
    commitments: tuple[str, ...] = ()
    reexecution: bool = True
    window: int = 14
    settings: Settings = field(default_factory=Settings)
    fields: Fields = field(default_factory=Fields)


@dataclass(frozen=True)
class Draft:
    """A proposal that is not recorded yet.

    Attributes:
        plans: one per batch.
        matched: search results of this call, by request.
        idle: affected models that are not in service; the cleanup deals with them.
    """

    plans: tuple[Plan, ...]
    matched: tuple[Matched, ...]
    idle: tuple[AffectedModel, ...]


@dataclass(frozen=True)
class _Known:
    """Records of a request: keyed hash of each record -> keyed hash of the person it is about."""

    request: Request
    records: Mapping[str, str]
    places: Sequence[DataPlace]


def draft(
    ledger: Ledger,
    requests: Sequence[Request],
    choices: Choices,
    key: RecordKey,
    confirmed: Sequence[str] = (),
    not_same: Collection[str] = (),
) -> Draft:
    """Make plans without recording them.

    Args:
        ledger: the request ledger.
        requests: the requests to plan.
        choices: inputs and options of the plan.
        key: the ledger's record key.
        confirmed: proposals that a human confirmed, as in `match_requests`.
        not_same: ids of requests whose other candidates a human rejected.

    Raises:
        InputError: a file, model, base, reference or setting cannot be used, a request is not approved, a method is unknown, a
            confirmation or rejection matches nothing, or it is not clear which models are in service.
        IntegrityError: a model is damaged, or the base is not the one that it was trained from.
    """
    require_methods(choices.methods)
    for request in requests:
        if request.state not in PLANNABLE:
            raise InputError(
                f"{request.id} is {request.state}; only approved requests can be planned. Approve it, or leave it out."
            )
        _require_verdict_recorded(request, choices.output)
    fresh = [request for request in requests if request.latest("unlearning") is None]
    if confirmed and not fresh:
        raise InputError(
            "--confirm comes too late: the records of these requests were fixed when their audits were registered. Leave it out."
        )
    if unknown := sorted(set(not_same) - {request.id for request in fresh}):
        raise InputError(
            f"--not-same names {unknown[0][:80]!r}, which is not a request that is planned now. Name it with --ids as well."
        )
    matched = match_requests(fresh, choices.data, key, choices.fields, confirmed, not_same) if fresh else []
    for request, entry in zip(fresh, matched, strict=True):
        _require_records_present(request, entry, choices)
    known = [
        _Known(request, {match.record: match.subject or match.record for match in entry.removed}, entry.places)
        for request, entry in zip(fresh, matched, strict=True)
        if entry.removed
    ]
    known += [_from_ledger(request) for request in requests if request not in fresh]
    if not known:
        return Draft((), tuple(matched), ())
    if absent := [root for root in choices.search if not Path(root).is_dir()]:
        raise InputError(f"{absent[0]} is not a folder. Name the folders to search with --search DIR ...")
    names = {name for entry in known for name in entry.records}
    require_clean(choices.references, names)
    affected = affected_models(_model_roots(choices), names)
    serving = _in_service(affected, choices.in_service, replaced_weights(ledger))
    held = {model.weights: trained_records(_origin(model, affected)) & names for model in serving}
    commitments = Commitments.read(choices.commitments, choices.output)
    commitments.require_fitting([_origin(model, affected) for model in serving])
    plans = [_plan(group, serving, affected, held, choices, commitments) for group in _groups(known, held, choices.window)]
    # A plan that cannot be run is refused before the models are scored.
    checked, audits = [require_runnable(ledger, plan, key) for plan in plans], NextAudits(ledger)
    plans = [_with_power(plan, own, audits) for plan, own in zip(plans, checked, strict=True)]
    return Draft(tuple(plans), tuple(matched), tuple(model for model in affected if model not in serving))


def _model_roots(choices: Choices) -> list[str | Path]:
    """Return the folders to search for models, including earlier batches, which contain models in service."""
    return [*choices.models, *([choices.output] if choices.output.is_dir() else [])]


def note(ledger: Ledger, draft: Draft, output: Path) -> None:
    """Record the plans in the batches' folders and in the ledger; requests without any record become not_found.

    Raises:
        InputError: a request has undecided candidates; then nothing is written.
    """
    if undecided := [entry.request for entry in draft.matched if entry.candidates]:
        raise InputError(
            f"{', '.join(undecided)}: rows that may be about this person must be decided first. Confirm those that are with "
            "--confirm FILE, and reject the others with --not-same ID."
        )
    for entry in draft.matched:
        _note_match(ledger, entry)
    for plan in draft.plans:
        digest, left = plan.save(output / plan.batch), left_by(ledger, plan.requests, output)
        ledger.advance_all(plan.requests, "planned", **plan.facts(digest), **left)


def _note_match(ledger: Ledger, entry: Matched) -> None:
    """Record the matched records of a request, unless the ledger already has exactly these."""
    request, facts = ledger.request(entry.request), _facts(entry)
    if not entry.removed:
        if request.state != "not_found":
            ledger.advance(entry.request, "not_found", **_rejections(entry))
    elif request.state == "identity_verified" or _noted(request) != json.loads(json.dumps(facts)):
        ledger.advance(entry.request, "matched", **facts)


def _noted(request: Request) -> dict[str, Any]:
    """Return what the ledger recorded of a match, without who recorded it."""
    return {name: value for name, value in (request.latest("matched") or {}).items() if name != OPERATOR}


def _require_verdict_recorded(request: Request, output: Path) -> None:
    """Check that no finished audit or refuting re-execution is unrecorded: a new plan must not suppress its outcome."""
    begun = request.latest("verifying")
    if request.state != "verifying" or begun is None:
        return
    since = datetime.fromisoformat(request.steps[-1].at).replace(microsecond=0)
    for path in (output / str(begun["batch"])).glob("model-*/audit-*/evidence.json"):
        if is_complete(path.parent) and datetime.fromisoformat(Evidence.load(path).created) >= since:
            raise InputError(
                f"an audit of {request.id} is done, but its verdict is not recorded yet. Run `unlearn request run {request.id}` "
                "first; after that the request can be planned again."
            )
    for path in (output / str(begun["batch"])).glob("model-*/reexecution-*.json"):
        proof = Reexecution.load(path)
        if proof.word == "NOT_REBUILT" and datetime.fromisoformat(proof.created) >= since:
            raise InputError(
                f"a re-execution of {request.id} is done, but its outcome is not recorded yet. Run `unlearn request run "
                f"{request.id}` first; after that the request can be planned again."
            )


def _require_records_present(request: Request, entry: Matched, choices: Choices) -> None:
    """Check that records which an earlier plan matched and a model was trained on are still in the files.

    Removing the row from the file, or naming another file, does not remove it from the model.
    """
    before = {record["record"] for record in (request.latest("matched") or {"records": []})["records"]}
    lost = before - entry.records - {match.record for match in (*entry.undecided, *entry.candidates)} - entry.rejected
    if lost and affected_models(_model_roots(choices), lost):
        raise InputError(
            f"{len(lost)} records that {request.id} was matched with are no longer in the training files, and a model was trained "
            "on them. Name all files with --data, and restore rows that were removed, until the deletion is verified."
        )


def _facts(entry: Matched) -> dict[str, Any]:
    """Return what the ledger records of a match."""
    return {
        "places": [place.model_dump() for place in entry.places],
        "records": [
            {"file": Path(m.file).name, "row": m.row, "record": m.record, "subject": m.subject, "how": m.how} for m in entry.removed
        ],
        "near_duplicates_left": len(entry.undecided),
        **_rejections(entry),
    }


def _rejections(entry: Matched) -> dict[str, Any]:
    """Return what the ledger records of rejected candidates: nothing if there are none."""
    return {"not_same": sorted(entry.rejected)} if entry.rejected else {}


def _from_ledger(request: Request) -> _Known:
    matched = request.latest("matched")
    assert matched is not None, "registered requests have been matched"
    records = {entry["record"]: entry["subject"] or entry["record"] for entry in matched["records"]}
    return _Known(request, records, [DataPlace(**place) for place in matched["places"]])


def _in_service(affected: Sequence[AffectedModel], named: Sequence[str], replaced: set[str]) -> list[AffectedModel]:
    """Return the affected models that answer users, each set of weights once."""
    if named:
        weights = {_weights(Path(folder)) for folder in named}
        paths = {Path(folder).resolve() for folder in named}
        chosen = {model.weights: model for model in affected if model.folder.resolve() in paths and model.weights in weights}
        if not chosen:
            raise InputError(
                "none of the models named with --in-service saw the records, or they are not below --models. Correct one of them."
            )
        return list(chosen.values())
    found = {model.weights: model for model in reversed(affected) if model.weights not in replaced}
    if not found:
        raise InputError(
            "no model below --models saw the records. Name the folders that contain the models; if none was ever trained on the "
            "records, remove them from the data and end the request with `unlearn request deny ID --exempt --reason ...`."
        )
    if len(found) > 1:
        listed = "\n  ".join(str(model.folder) for model in reversed(found.values()))
        raise InputError(
            f"{len(found)} models saw the records. Name those that answer users with --in-service DIR ...:\n  {listed}"
        )
    return list(found.values())


def _weights(folder: Path) -> str:
    try:
        return str(read_json(folder / MANIFEST)["about"]["weights"])
    except (KeyError, TypeError):
        raise InputError(f"{folder} is not a model folder with a manifest. Name one that `unlearn` wrote.") from None


def _origin(model: AffectedModel, affected: Sequence[AffectedModel]) -> Path:
    """Return the folder that records what a model was trained on: the nearest with a log or shards, else one with a list."""
    ancestry = _ancestry(model, affected)
    logged = (step.folder for step in ancestry if any((step.folder / name).is_file() for name in (LOG_NAME, SHARDS)))
    listed = (step.folder for step in ancestry if trained_records(step.folder))
    return next(logged, None) or next(listed, model.folder)


def _ancestry(model: AffectedModel, affected: Sequence[AffectedModel]) -> list[AffectedModel]:
    """Return the model and those it was made from, the nearest first."""
    by_weights = {other.weights: other for other in affected}
    found = [model]
    while (parent := by_weights.get(found[-1].parent or "")) is not None and parent not in found:
        found.append(parent)
    return found


def _groups(known: Sequence[_Known], held: Mapping[str, frozenset[str]], window: int) -> list[list[_Known]]:
    """Group requests that share models and have close deadlines; the most urgent group comes first.

    Raises:
        InputError: a request's records are in no model in service.
    """
    components: list[tuple[set[str], list[_Known]]] = []
    for entry in known:
        models = {weights for weights, names in held.items() if names & entry.records.keys()}
        if not models:
            raise InputError(
                f"no model in service saw the records of {entry.request.id}. Correct --in-service, or deny the request."
            )
        # Connected components: merge all groups that share a model with this request.
        touching = [part for part in components if part[0] & models]
        components = [part for part in components if part not in touching]
        merged = [entry, *(other for part in touching for other in part[1])]
        components.append((models.union(*(part[0] for part in touching)), merged))
    groups: list[list[_Known]] = []
    for _, entries in components:
        entries.sort(key=lambda entry: (entry.request.due, entry.request.id))
        for entry in entries:
            last = groups[-1][0] if groups and groups[-1][0] in entries else None
            if last is None or entry.request.due > last.request.due + timedelta(days=window):
                groups.append([])
            groups[-1].append(entry)
    return sorted(groups, key=lambda group: group[0].request.due)


def _plan(
    group: Sequence[_Known],
    serving: Sequence[AffectedModel],
    affected: Sequence[AffectedModel],
    held: Mapping[str, frozenset[str]],
    choices: Choices,
    commitments: Commitments,
) -> Plan:
    owners = {name: person for entry in group for name, person in entry.records.items()}
    requests = [entry.request for entry in group]
    touched = [(model, sorted(held[model.weights] & owners.keys())) for model in serving]
    return Plan(
        batch=f"B-{secrets.token_hex(6)}",
        requests=tuple(entry.request.id for entry in group),
        subjects=tuple(dict.fromkeys(subject for entry in group for subject in entry.request.subjects)),
        answer_by=group[0].request.due,
        data=tuple(_absolute(file) or file for file in choices.data),
        places=_places(group),
        fields=dataclasses.asdict(choices.fields),
        models=tuple(
            _planned(model, names, owners, affected, choices, commitments.of(_origin(model, affected), requests))
            for model, names in touched
            if names
        ),
        roots=tuple(dict.fromkeys(str(Path(root).resolve()) for root in (*choices.models, *choices.search))),
        references=tuple(str(Path(folder).resolve()) for folder in choices.references),
        holdout=_absolute(choices.holdout),
        holdout_divided=True,
        rewordings=_absolute(choices.rewordings),
        accept=choices.accept_reference_differences,
        settings=choices.settings,
    )


def _planned(
    model: AffectedModel,
    names: Sequence[str],
    owners: Mapping[str, str],
    affected: Sequence[AffectedModel],
    choices: Choices,
    committed: tuple[Path | None, str],
) -> PlannedModel:
    people, references = len({owners[name] for name in names}), len(choices.references)
    origin, base = _origin(model, affected), _absolute(choices.base) or _base(model, affected)
    judge = _judge(model, names, people, affected, choices)
    provable = choices.reexecution and obstacle(EXECUTABLE, origin, base) is None
    older = committed[0] is not None
    methods = candidate_methods(
        model.folder, names, people, references, choices.methods, provable, older, by_table=judge is not None
    )
    share, words = expected_cost(methods[0], model.folder, names, people)
    proof = planned_proof(methods, model.folder, origin, base, names, share, committed) if choices.reexecution else None
    return PlannedModel(
        folder=str(model.folder.resolve()),
        weights=model.weights,
        origin=str(origin.resolve()),
        records=tuple(names),
        people=people,
        ladder=methods,
        base=base,
        share=share,
        cost=words,
        shown=_shown(methods, proof, names, references, judge),
        proof=proof,
        level_table=None if judge is None else str(judge.folder),
        level_table_key=None if judge is None else _absolute(choices.level_table_key),
    )


def _judge(
    model: AffectedModel, names: Sequence[str], people: int, affected: Sequence[AffectedModel], choices: Choices
) -> Judge | None:
    """Return the level table that judges a model's audits; None where references do, or where it has no row of a record.

    Raises:
        InputError: references and a table were named, or the named table is another model's.
    """
    if choices.references and choices.level_table is not None:
        raise InputError("--references and --level-table both judge an audit. Give one of them.")
    if choices.references:
        return None
    ancestors = [step.folder for step in _ancestry(model, affected)[1:]]
    return judge_of(model.folder, ancestors, choices.level_table, names, people, choices.level_table_key)


def _shown(
    methods: Sequence[str],
    proof: PlannedProof | None,
    names: Sequence[str],
    references: int,
    judge: Judge | None,
) -> str:
    """Describe what an audit will show; without references none is made where the proof is enough."""
    rests = proof is not None and proof.share is not None and (proof.commitment is not None or methods[0] not in FROM_LOG)
    if rests and methods[0] in EXECUTABLE and judge is not None:
        return f"nothing, as the rebuild is executed again; if that proves nothing: {judge.words}"
    if judge is not None:
        return judge.words
    if rests and methods[0] in EXECUTABLE and not references:
        return "nothing: without references no audit is made, as the rebuild is executed again"
    return describe_judge(len(names), references)


def _with_power(plan: Plan, checked: Mapping[str, Runnable], audits: NextAudits) -> Plan:
    """Return a plan that says how often the audit of each model would certify an honest deletion."""
    models = []
    for model in plan.models:
        sets, before = checked[model.weights].sets, audits.take(checked[model.weights].controls)
        more = f"; {describe_power(plan, model, sets, before)}" if can_be_measured(plan, model) else ""
        models.append(model.model_copy(update={"shown": f"{model.shown}{more}"}))
    return plan.model_copy(update={"models": tuple(models)})


def _absolute(given: str | None) -> str | None:
    """Return an existing path made absolute, and anything else, such as a Hub name, unchanged."""
    return str(Path(given).resolve()) if given is not None and Path(given).exists() else given


def _base(model: AffectedModel, affected: Sequence[AffectedModel]) -> str | None:
    """Return the base model that the model, or the nearest of those it was made from, names; None if unknown."""
    named = (named_base_of(step.folder) for step in _ancestry(model, affected))
    return next((base.place for base in named if base is not None and base.place is not None), None)


def _places(group: Sequence[_Known]) -> tuple[DataPlace, ...]:
    """Return the files that contain records of any of the requests, with counts summed over the requests."""
    found: dict[tuple[str, str], list[DataPlace]] = {}
    for entry in group:
        for place in entry.places:
            found.setdefault((place.file, place.digest), []).append(place)
    return tuple(
        DataPlace(
            file=file,
            digest=digest,
            records=sum(place.records for place in places),
            near_duplicates=sum(place.near_duplicates for place in places),
        )
        for (file, digest), places in found.items()
    )
