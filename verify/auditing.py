"""Measure every model on every record, judge, and write the evidence down.

Models are loaded one after another: an audit of eight references needs the memory of one model.
"""

import hashlib
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from verify.attacks import select_attacks
from verify.attacks.base import Attack, Observation
from verify.errors import InputError
from verify.evidence import (
    AuditedModel,
    AuditedSet,
    Environment,
    Evidence,
    ModelRole,
    NotRun,
    SetRole,
    Settings,
)
from verify.files import new_output, write_manifest, write_text
from verify.identity import RecordKey
from verify.measurements import measure
from verify.models import LoadedModel, load_model, require_same_tokenizer
from verify.protocol import Judged, blind_value, judge
from verify.records import Fields, Record, RecordSource, require_disjoint, require_trained
from verify.scores import ScoreBlock, ScoreTable
from verify.sources import load_forget_set, load_records

Progress = Callable[[str, float], None]
"""Told what is going on and the share of the audit that is done."""


@dataclass(frozen=True, eq=False)
class _Plan:
    """Who is to be scored, in this order: the base first, because the reference attack subtracts its scores."""

    label: str
    role: ModelRole
    source: Any


def audit(
    model: Any,
    original: Any,
    *,
    forget_set: RecordSource,
    base: Any = None,
    references: Sequence[Any] = (),
    retain_set: RecordSource | None = None,
    holdout_set: RecordSource | None = None,
    data: RecordSource | None = None,
    fields: Fields | None = None,
    tokenizer: Any = None,
    output_dir: str | Path | None = None,
    settings: Settings | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress = lambda _, __: None,
) -> Evidence:
    """Judge whether a forget set has left a model.

    Args:
        model: the unlearned model: a folder, Hub name, or model in memory (then `tokenizer` is needed).
        original: the model before unlearning.
        forget_set: the records that were to be removed, or a list of ids if `data` is given.
        base: the model before fine-tuning; the reference attack needs it.
        references: models fine-tuned like the original but without the forget set, with other seeds; 4 to 8 of them.
        retain_set: records the model was to keep; for the utility gate.
        holdout_set: records like the forget set that no model was trained on; for membership attacks.
        data: the file the original was trained on.
        fields: which columns hold what.
        tokenizer: for models in memory.
        output_dir: where `evidence.json`, `scores.parquet` and `report.html` go; None writes nothing.
        settings: margins, levels, attacks and seed; the defaults are the protocol's.
        cache_dir: where token statistics are kept between audits; None keeps none.
        progress: told what is going on.

    Raises:
        InputError: records or models cannot be used; the message says what to type next.
    """
    started = time.monotonic()
    settings = settings or Settings()
    output = None if output_dir is None else new_output(output_dir)
    sets = _load_sets(forget_set, retain_set, holdout_set, data, fields, settings)
    attacks = select_attacks(settings.attacks)
    settings = settings.model_copy(update={"attacks": tuple(attacks)})
    plans = [_Plan("base", "base", base)] if base is not None else []
    plans += [_Plan("original", "original", original), _Plan("target", "target", model)]
    plans += [_Plan(f"reference {number}", "reference", source) for number, source in enumerate(references, 1)]
    scorer = _Scorer(sets, attacks, settings, tokenizer, None if cache_dir is None else Path(cache_dir), RecordKey.load())
    for done, plan in enumerate(plans):
        progress(f"scoring {plan.label}", done / len(plans))
        scorer.score(plan, partial(_report, progress, plan.label, done, len(plans)))
    progress("judging", 1.0)
    table = ScoreTable(scorer.blocks)
    judged = judge(table, settings, blind_value(*_texts(sets), settings))
    evidence = _evidence(judged, scorer, table, settings, time.monotonic() - started)
    if output is not None:
        write_audit(evidence, table, output)
    return evidence


def write_audit(evidence: Evidence, table: ScoreTable, output: Path) -> None:
    """Write the three files of an audit and their manifest."""
    from verify.report.html import render

    table.save(output / "scores.parquet")
    evidence.save(output / "evidence.json")
    write_text(output / "report.html", render(evidence))
    write_manifest(output, "audit", {"verdict": evidence.verdict})


def _report(progress: Progress, label: str, done: int, total: int, share: float) -> None:
    progress(f"scoring {label}", (done + share) / total)


class _Scorer:
    """Scores one model after the other and keeps only numbers."""

    def __init__(
        self,
        sets: Mapping[SetRole, Sequence[Record]],
        attacks: Mapping[str, Attack],
        settings: Settings,
        tokenizer: Any,
        cache_dir: Path | None,
        key: RecordKey,
    ) -> None:
        self.sets, self.attacks, self.settings, self.tokenizer = sets, attacks, settings, tokenizer
        self.cache_dir, self.key = cache_dir, key
        self.blocks: dict[tuple[str, SetRole], ScoreBlock] = {}
        self.models: list[AuditedModel] = []
        self.base: dict[SetRole, Observation] = {}
        self.device = "cpu"
        self._first: LoadedModel | None = None

    def score(self, plan: _Plan, progress: Callable[[float], None]) -> None:
        """Load one model, score it on every set, and let it go."""
        loaded = load_model(plan.source, tokenizer=self.tokenizer, dtype=self.settings.dtype)
        if self._first is not None:
            require_same_tokenizer([self._first, loaded])
        self._require_new_reference(plan, loaded)
        parameter = next(loaded.model.parameters())
        self.device = str(parameter.device)
        self.models.append(
            AuditedModel(
                label=plan.label,
                role=plan.role,
                name=loaded.name,
                weights=loaded.digest,
                tokenizer=loaded.tokenizer_digest,
                dtype=str(parameter.dtype).removeprefix("torch."),
            )
        )
        for done, (role, records) in enumerate(self.sets.items()):
            observation = measure(loaded, records, cache_dir=self.cache_dir, key=self.key, overflow=self.settings.overflow)
            self.blocks[plan.label, role] = self._block(observation, role)
            if plan.role == "base":
                self.base[role] = observation.without_model()
            progress((done + 1) / len(self.sets))
        self._first = self._first or LoadedModel(None, None, loaded.name, loaded.digest, loaded.tokenizer_digest)

    def _require_new_reference(self, plan: _Plan, loaded: LoadedModel) -> None:
        """A reference given twice would make honest retrainings look more alike than they are."""
        twins = [model.label for model in self.models if model.weights == loaded.digest and model.role != "base"]
        if plan.role == "reference" and twins:
            raise InputError(
                f"{plan.label} ({loaded.name}) has the very weights of {twins[0]}. Each reference must be a training of its "
                "own: without the forget set, and with another seed."
            )

    def _block(self, observation: Observation, role: SetRole) -> ScoreBlock:
        references = [self.base[role]] if role in self.base else []
        return ScoreBlock(
            records=tuple(self.key.of(record.fingerprint) for record in observation.records),
            subjects=tuple(
                None if record.subject_id is None else self.key.of(record.subject_id, "subject") for record in observation.records
            ),
            tokens=np.array([len(entry) for entry in observation.statistics], dtype=np.int64),
            loss=np.array([entry.loss for entry in observation.statistics]),
            # Retain records are trained data: they speak of utility, and no attack is judged on them.
            scores={
                name: attack.score(observation, references)
                for name, attack in self.attacks.items()
                if role != "retain" and ("reference model" not in attack.needs or references)
            },
        )

    def not_run(self) -> tuple[NotRun, ...]:
        """Attacks that were asked for but lacked what they need."""
        return tuple(
            NotRun(attack=name, reason="needs the model before fine-tuning; give it with --base DIR")
            for name, attack in self.attacks.items()
            if "reference model" in attack.needs and not self.base
        )


def _load_sets(
    forget_set: RecordSource,
    retain_set: RecordSource | None,
    holdout_set: RecordSource | None,
    data: RecordSource | None,
    fields: Fields | None,
    settings: Settings,
) -> dict[SetRole, Sequence[Record]]:
    """Load the sets, check that they fit together, and draw the retain records that are scored."""
    training = None if data is None else load_records(data, fields)
    forget = load_forget_set(forget_set, training, fields)
    if len(forget) < 2:
        raise InputError(
            "the forget set holds one record; a verdict on a set needs at least two, since one value has no spread. "
            "Add the other records of the same person or request."
        )
    sets: dict[SetRole, Sequence[Record]] = {"forget": forget}
    if retain_set is not None:
        sets["retain"] = load_records(retain_set, fields)
    elif training is not None:
        removed = {record.fingerprint for record in forget}
        sets["retain"] = [record for record in training if record.fingerprint not in removed]
    if holdout_set is not None:
        sets["holdout"] = load_records(holdout_set, fields)
    if training is not None:
        require_trained(forget, training, "the forget set")
        require_disjoint({"training": training, "holdout": sets.get("holdout", [])})
    require_disjoint(sets)
    for role, records in sets.items():
        if len(records) < 2:
            raise InputError(f"the {role} set holds {len(records)} records; at least two are needed. Give more, or leave it out.")
    if "retain" in sets and len(sets["retain"]) > settings.retain_records:
        drawn = np.random.default_rng(settings.seed).permutation(len(sets["retain"]))[: settings.retain_records]
        sets["retain"] = [sets["retain"][index] for index in sorted(drawn)]
    return sets


def _texts(sets: Mapping[SetRole, Sequence[Record]]) -> tuple[dict[SetRole, list[str]], dict[SetRole, list[str]]]:
    """What the blind baseline reads: the whole text of every record, and whom it belongs to."""
    compared: dict[SetRole, Sequence[Record]] = {role: sets[role] for role in sets if role != "retain"}
    texts = {role: [f"{record.prompt} {record.scored_text}" for record in records] for role, records in compared.items()}
    groups = {role: [record.subject_id or record.example_id for record in records] for role, records in compared.items()}
    return texts, groups


def _evidence(judged: Judged, scorer: _Scorer, table: ScoreTable, settings: Settings, seconds: float) -> Evidence:
    sets = []
    for role in scorer.sets:
        block = table.blocks["target", role]
        members = hashlib.sha256("\n".join(sorted(block.records)).encode()).hexdigest()
        sets.append(AuditedSet(role=role, records=len(block.records), scored_tokens=int(block.tokens.sum()), digest=members))
    return Evidence(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_seconds=seconds,
        verdict=judged.verdict,
        explanation=judged.explanation,
        scope=judged.scope,
        not_shown=judged.not_shown,
        next_step=judged.next_step,
        pre_registered=False,
        settings=settings,
        models=tuple(scorer.models),
        sets=tuple(sets),
        gates=judged.gates,
        residual=judged.residual,
        tests=judged.tests,
        accused=judged.accused,
        accused_share=judged.accused_share,
        attacks=judged.attacks,
        not_run=scorer.not_run(),
        utility=judged.utility,
        figures=judged.figures,
        environment=_environment(scorer.device),
    )


def _environment(device: str) -> Environment:
    def version(name: str) -> str:
        return metadata.version(name)

    return Environment(
        unlearn_verify=version("unlearn-verify"),
        python=sys.version.split()[0],
        torch=version("torch"),
        transformers=version("transformers"),
        numpy=version("numpy"),
        scipy=version("scipy"),
        platform=platform.platform(),
        device=device,
    )
