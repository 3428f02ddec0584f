"""Planning: which approved requests go together, which models lose what, by which methods.

Requests that touch the same models are answered in one batch, as long as their deadlines lie near each other: one rebuild instead
of several. A plan is a proposal until it is noted; `--dry-run` notes nothing.

Every plan searches the files again, until a request's audits are registered: from then on its records are those, so that nobody
leaves out a record of which an audit has told.
"""

import dataclasses
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from unlearn.requests.ladders import cost, ladder, require_methods, shown
from unlearn.requests.ledger import Ledger, Request
from unlearn.requests.lineage import AffectedModel, affected_models, trained_names
from unlearn.requests.matching import Matched, match_requests
from unlearn.requests.plans import Plan, PlannedModel
from unlearn.requests.training_sets import require_clean
from unlearn.shards import SHARDS, SavedShards
from verify.deletion_record import DataPlace
from verify.differences import ReferenceDifference
from verify.errors import InputError
from verify.evidence import Evidence, Settings
from verify.files import MANIFEST, is_complete, read_json
from verify.identity import RecordKey
from verify.records import Fields

PLANNABLE = ("identity_verified", "matched", "planned", "unlearning", "verifying", "failed", "inconclusive")
DEFAULT_STATES = ("identity_verified", "matched")


@dataclass(frozen=True)
class Choices:
    """What the operator says about a plan.

    Attributes:
        data: training files.
        models: folders in which models are looked for.
        search: further folders in which copies of deleted data are looked for.
        in_service: the models that answer users; empty where only one affected model is found.
        output: where batches live; searched for models as well.
        references: models trained without the records.
        base: the model before fine-tuning; empty where the models' manifests say it.
        holdout: records that no model was trained on; divided by subject, half for the method and half for the audit.
        accept_reference_differences: how references may differ from retrainings, by the names of `verify.audit`.
        methods: methods to try before the exact rebuild.
        window: requests whose deadlines lie so many days apart go together.
        settings, fields: of audit and files.
    """

    data: tuple[str, ...]
    models: tuple[str, ...]
    search: tuple[str, ...] = ()
    in_service: tuple[str, ...] = ()
    output: Path = Path("deletions")
    references: tuple[str, ...] = ()
    base: str | None = None
    holdout: str | None = None
    accept_reference_differences: tuple[ReferenceDifference, ...] = ()
    methods: tuple[str, ...] = ()
    window: int = 14
    settings: Settings = field(default_factory=Settings)
    fields: Fields = field(default_factory=Fields)


@dataclass(frozen=True)
class Draft:
    """What a plan would be.

    Attributes:
        plans: one per batch.
        matched: what was searched for in this call.
        idle: affected models that are not in service; `purge` looks after them.
    """

    plans: tuple[Plan, ...]
    matched: tuple[Matched, ...]
    idle: tuple[AffectedModel, ...]


@dataclass(frozen=True)
class _Known:
    """Records of a request: keyed hash of each, and of the person it is about."""

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
    """Make plans and note nothing.

    Args:
        ledger: the requests are in it.
        requests: to be planned.
        choices: what the operator says about the plan.
        key: the ledger's.
        confirmed: proposals that a human confirmed, as `match_requests` takes them.
        not_same: ids of requests whose other candidates a human rejected.

    Raises:
        InputError: files or models cannot be used, a request is not approved, a method is none, a confirmation or rejection names
            nothing, or it is not clear which models are in service.
    """
    require_methods(choices.methods)
    for request in requests:
        if request.state not in PLANNABLE:
            raise InputError(f"{request.id} is {request.state}; only approved requests are planned. Approve it, or leave it out.")
        _require_nothing_unsaid(request, choices.output)
    fresh = [request for request in requests if request.latest("unlearning") is None]
    if confirmed and not fresh:
        raise InputError("--confirm comes too late: the records of these requests were registered for their audits, and stay so.")
    if strangers := sorted(set(not_same) - {request.id for request in fresh}):
        raise InputError(f"--not-same names {strangers[0][:80]!r}, which is no request that is planned now. Name it in --ids too.")
    matched = match_requests(fresh, choices.data, key, choices.fields, confirmed, not_same) if fresh else []
    for request, entry in zip(fresh, matched, strict=True):
        _require_nothing_lost(request, entry, choices)
    known = [
        _Known(request, {match.record: match.subject or match.record for match in entry.removed}, entry.places)
        for request, entry in zip(fresh, matched, strict=True)
        if entry.removed
    ]
    known += [_of_ledger(request) for request in requests if request not in fresh]
    if not known:
        return Draft((), tuple(matched), ())
    if absent := [root for root in choices.search if not Path(root).is_dir()]:
        raise InputError(f"{absent[0]} is no folder. Name the folders to search with --search DIR ...")
    names = {name for entry in known for name in entry.records}
    require_clean(choices.references, names)
    affected = affected_models(_model_roots(choices), names)
    serving = _in_service(affected, choices.in_service, replaced_weights(ledger))
    held = {model.weights: trained_names(_origin(model, affected)) & names for model in serving}
    plans = [_plan(group, serving, affected, held, choices) for group in _groups(known, held, choices.window)]
    return Draft(tuple(plans), tuple(matched), tuple(model for model in affected if model not in serving))


def _model_roots(choices: Choices) -> list[str | Path]:
    """Where models are looked for: earlier batches hold the new ones."""
    return [*choices.models, *([choices.output] if choices.output.is_dir() else [])]


def note(ledger: Ledger, draft: Draft, output: Path) -> None:
    """Write the plans down, in the batches' folders and in the ledger; requests without any record become not_found.

    Raises:
        InputError: a request has candidates that nobody has decided on; nothing is written then.
    """
    if undecided := [entry.request for entry in draft.matched if entry.candidates]:
        raise InputError(
            f"{', '.join(undecided)}: rows that may be this person's must be decided first. Confirm those that are with "
            "--confirm FILE, and reject the others with --not-same ID."
        )
    for entry in draft.matched:
        _note_match(ledger, entry)
    for plan in draft.plans:
        digest = plan.save(output / plan.batch)
        ledger.advance_all(plan.requests, "planned", **plan.facts(digest))


def _note_match(ledger: Ledger, entry: Matched) -> None:
    """Note what a request means, unless the ledger says just that already."""
    request, facts = ledger.request(entry.request), _facts(entry)
    if not entry.removed:
        if request.state != "not_found":
            ledger.advance(entry.request, "not_found", **_rejections(entry))
    elif request.state == "identity_verified" or request.latest("matched") != json.loads(json.dumps(facts)):
        ledger.advance(entry.request, "matched", **facts)


def _require_nothing_unsaid(request: Request, output: Path) -> None:
    """Raise InputError where an audit is done and its verdict not noted yet: a new plan must not leave it unsaid."""
    begun = request.latest("verifying")
    if request.state != "verifying" or begun is None:
        return
    since = datetime.fromisoformat(request.steps[-1].at).replace(microsecond=0)
    for path in (output / str(begun["batch"])).glob("model-*/audit-*/evidence.json"):
        if is_complete(path.parent) and datetime.fromisoformat(Evidence.load(path).created) >= since:
            raise InputError(
                f"an audit of {request.id} is done, and its verdict is not noted yet. Run `unlearn request run {request.id}` "
                "first; after that it can be planned anew."
            )


def _require_nothing_lost(request: Request, entry: Matched, choices: Choices) -> None:
    """Raise InputError where a record that an earlier plan matched is in no file now, and a model was trained on it.

    Whoever took the row out of the file, or named another file, has not taken it out of the model.
    """
    before = {record["record"] for record in (request.latest("matched") or {"records": []})["records"]}
    lost = before - entry.records - {match.record for match in (*entry.undecided, *entry.candidates)} - entry.rejected
    if lost and affected_models(_model_roots(choices), lost):
        raise InputError(
            f"{len(lost)} records that {request.id} was matched with are not in the training files any more, and a model was "
            "trained on them. Name all files with --data, and restore rows that were taken out, until the deletion is verified."
        )


def _facts(entry: Matched) -> dict[str, Any]:
    """What the ledger notes of a match."""
    return {
        "places": [place.model_dump() for place in entry.places],
        "records": [
            {"file": Path(m.file).name, "row": m.row, "record": m.record, "subject": m.subject, "how": m.how} for m in entry.removed
        ],
        "near_duplicates_left": len(entry.undecided),
        **_rejections(entry),
    }


def _rejections(entry: Matched) -> dict[str, Any]:
    """What the ledger notes of candidates that a human rejected: nothing where there was none."""
    return {"not_same": sorted(entry.rejected)} if entry.rejected else {}


def _of_ledger(request: Request) -> _Known:
    matched = request.latest("matched")
    assert matched is not None, "the caller looks for it"
    records = {entry["record"]: entry["subject"] or entry["record"] for entry in matched["records"]}
    return _Known(request, records, [DataPlace(**place) for place in matched["places"]])


def replaced_weights(ledger: Ledger) -> set[str]:
    """Weights that a verified deletion has replaced."""
    steps = [step for request in ledger.requests() for step in request.steps if step.state == "deployed"]
    return {str(model["before"]) for step in steps for model in step.details["models"]}


def _in_service(affected: Sequence[AffectedModel], named: Sequence[str], replaced: set[str]) -> list[AffectedModel]:
    """The affected models that answer users, each set of weights once."""
    if named:
        weights = {_weights(Path(folder)) for folder in named}
        places = {Path(folder).resolve() for folder in named}
        chosen = {model.weights: model for model in affected if model.folder.resolve() in places and model.weights in weights}
        if not chosen:
            raise InputError("none of the models named with --in-service saw the records, or they do not lie below --models.")
        return list(chosen.values())
    found = {model.weights: model for model in reversed(affected) if model.weights not in replaced}
    if not found:
        raise InputError(
            "no model below --models saw the records. Name the folders that hold the models; if none was ever trained on the "
            "records, remove them from the data and end the request with `unlearn request deny ID --exempt --reason ...`."
        )
    if len(found) > 1:
        listed = "\n  ".join(str(model.folder) for model in reversed(found.values()))
        raise InputError(f"{len(found)} models saw the records. Say which answer users with --in-service DIR ...:\n  {listed}")
    return list(found.values())


def _weights(folder: Path) -> str:
    try:
        return str(read_json(folder / MANIFEST)["about"]["weights"])
    except (KeyError, TypeError):
        raise InputError(f"{folder} is no model folder with a manifest. Name one that `unlearn` wrote.") from None


def _origin(model: AffectedModel, affected: Sequence[AffectedModel]) -> Path:
    """The folder that says what a model was trained on: its own, or that of the model it was made from."""
    return next((step.folder for step in _ancestry(model, affected) if trained_names(step.folder)), model.folder)


def _ancestry(model: AffectedModel, affected: Sequence[AffectedModel]) -> list[AffectedModel]:
    by_weights = {other.weights: other for other in affected}
    found = [model]
    while (parent := by_weights.get(found[-1].parent or "")) is not None and parent not in found:
        found.append(parent)
    return found


def _groups(known: Sequence[_Known], held: Mapping[str, frozenset[str]], window: int) -> list[list[_Known]]:
    """Requests that share models, split where their deadlines lie too far apart; the most urgent first.

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
) -> Plan:
    owners = {name: person for entry in group for name, person in entry.records.items()}
    touched = [(model, sorted(held[model.weights] & owners.keys())) for model in serving]
    return Plan(
        batch=f"B-{secrets.token_hex(6)}",
        requests=tuple(entry.request.id for entry in group),
        subjects=tuple(dict.fromkeys(subject for entry in group for subject in entry.request.subjects)),
        answer_by=group[0].request.due,
        data=tuple(_whole_place(file) or file for file in choices.data),
        places=_places(group),
        fields=dataclasses.asdict(choices.fields),
        models=tuple(_planned(model, names, owners, affected, choices) for model, names in touched if names),
        roots=tuple(dict.fromkeys(str(Path(root).resolve()) for root in (*choices.models, *choices.search))),
        references=tuple(str(Path(folder).resolve()) for folder in choices.references),
        holdout=_whole_place(choices.holdout),
        holdout_divided=True,
        accept=choices.accept_reference_differences,
        settings=choices.settings,
    )


def _planned(
    model: AffectedModel, names: Sequence[str], owners: Mapping[str, str], affected: Sequence[AffectedModel], choices: Choices
) -> PlannedModel:
    people = len({owners[name] for name in names})
    methods = ladder(model.folder, names, people, len(choices.references), choices.methods)
    share, words = cost(methods[0], model.folder, names, people)
    return PlannedModel(
        folder=str(model.folder.resolve()),
        weights=model.weights,
        origin=str(_origin(model, affected).resolve()),
        records=tuple(names),
        people=people,
        ladder=methods,
        base=_whole_place(choices.base) or _base(model, affected),
        share=share,
        cost=words,
        shown=shown(len(names), len(choices.references), choices.settings),
    )


def _whole_place(given: str | None) -> str | None:
    """A place that means the same from every working directory; a Hub name stays what it is."""
    return str(Path(given).resolve()) if given is not None and Path(given).exists() else given


def _base(model: AffectedModel, affected: Sequence[AffectedModel]) -> str | None:
    """Where the model before fine-tuning lies, by the manifests of the model and of those it was made from."""
    for step in _ancestry(model, affected):
        if (step.folder / SHARDS).is_file():
            return SavedShards.read(step.folder).base
        about = read_json(step.folder / MANIFEST)["about"]
        place = ((about.get("inputs") or {}).get("models") or {}).get("base" if "method" in about else "model")
        if place is not None:
            return str(place)
    return None


def _places(group: Sequence[_Known]) -> tuple[DataPlace, ...]:
    """The files that held records of any of the requests."""
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
