"""Propose the plan of one batch: for every model its records, methods and cost, how it is proven, and what judges its audit."""

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from unlearn.requests.candidates import (
    EXECUTABLE,
    FROM_LOG,
    candidate_methods,
    describe_judge,
    expected_cost,
)
from unlearn.requests.choices import Choices
from unlearn.requests.grouping import Known, places_of
from unlearn.requests.level_tables import Judge, judge_of
from unlearn.requests.models_in_service import ancestry_of, base_of, origin_of
from unlearn.requests.plan import Plan, PlannedModel, PlannedProof
from unlearn.requests.planned_proofs import Commitments, obstacle, planned_proof
from unlearn.scan.lineage import AffectedModel
from verify.errors import InputError


def propose(
    group: Sequence[Known],
    serving: Sequence[AffectedModel],
    affected: Sequence[AffectedModel],
    held: Mapping[str, frozenset[str]],
    choices: Choices,
    commitments: Commitments,
) -> Plan:
    """Propose the plan of one batch.

    Args:
        group: the requests and their records, the most urgent first.
        serving: the affected models in service.
        affected: all affected models, among which are those that they were made from.
        held: digest of weights -> keyed hashes of the records to remove that the model was trained on.
        choices: inputs and options of the plan.
        commitments: those that a proof may rest on.

    Raises:
        InputError: a file of a model or level table cannot be used, or references and a table were both named.
    """
    owners = {name: person for entry in group for name, person in entry.records.items()}
    requests = [entry.request for entry in group]
    touched = [(model, sorted(held[model.weights] & owners.keys())) for model in serving]
    return Plan(
        batch=f"B-{secrets.token_hex(6)}",
        requests=tuple(entry.request.id for entry in group),
        subjects=tuple(dict.fromkeys(subject for entry in group for subject in entry.request.subjects)),
        answer_by=group[0].request.due,
        data=tuple(_absolute(file) or file for file in choices.data),
        places=places_of(group),
        fields=dataclasses.asdict(choices.fields),
        models=tuple(
            _planned(model, names, owners, affected, choices, commitments.of(origin_of(model, affected), requests))
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
    origin, base = origin_of(model, affected), _absolute(choices.base) or base_of(model, affected)
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
        shown=describe_audit(methods, proof, names, references, judge),
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
    ancestors = [step.folder for step in ancestry_of(model, affected)[1:]]
    return judge_of(model.folder, ancestors, choices.level_table, names, people, choices.level_table_key)


def describe_audit(
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


def _absolute(given: str | None) -> str | None:
    """Return an existing path made absolute, and anything else, such as a Hub name, unchanged."""
    return str(Path(given).resolve()) if given is not None and Path(given).exists() else given
