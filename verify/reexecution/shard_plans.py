"""Plan of a re-execution of shards: the stages that a deletion changed, and those that it must have left alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from verify.data.encoding import Encoded
from verify.errors import InputError
from verify.io.files import read_json
from verify.models.checked_loading import put_adapter_file
from verify.models.digests import weights_digest
from verify.models.ensembles import ENSEMBLE, WEIGHTS
from verify.models.loading import LoadedModel
from verify.provenance.commitment import CommittedLog, TrainingCommitment, committed_logs, joint_root
from verify.provenance.shard_plan import ShardsDescription, shard_and_slice, stage_epochs, stage_seed
from verify.provenance.training_log import LOG_NAME, TrainingLog
from verify.reexecution.course import Course
from verify.reexecution.plans import Plan, Trust, about_commitment, encoded_windows, forget_windows
from verify.reexecution.records import Shown
from verify.reexecution.schedules import own_findings
from verify.reexecution.served import about_adapter
from verify.schema.reexecution import Finding
from verify.training.adapters import attach_adapter
from verify.training.shard_sum import add_adapters

SUM = "sum"
"""Combination in which the shards' weight changes are added to the base, and one whole model is served."""


def plan_shards(
    model: Path,
    before: Path | None,
    base: LoadedModel,
    shown: Shown,
    commitment: TrainingCommitment | None,
    fresh: Callable[[], Any],
    trust: Trust,
) -> Plan:
    """Plan the execution of the stages that a deletion changed.

    Args:
        model: folder of the deleted model.
        before: folder of the model before the deletion, or of its logs; needed.
        base: the model below all shards.
        shown: the records.
        commitment: made before the request, or None.
        fresh: loads the base again, for every stage.
        trust: what the commitment stands for.

    Raises:
        InputError: `before` is missing, or a folder is not a sharded training.
    """
    if before is None:
        raise InputError("which stages the deletion changed follows from the training before it. Give its folder with --log DIR.")
    after, then = ShardsDescription.read(model), ShardsDescription.read(before)
    old, new = ({entry.place: entry for entry in committed_logs(folder)} for folder in (before, model))
    root = joint_root(committed_logs(before))
    findings = [*_about_plans(then, after, base, shown)]
    if commitment is not None:
        findings += about_commitment(commitment, root, trust.requested)
    findings += _about_served(model, after) if after.combine != SUM else ()
    affected = _affected(then, shown)
    # Without a commitment from before the request, stages that should be as they were are the operator's word: executed, too.
    trusted = set(old) if trust.covers(commitment) else set()
    placed = _placed(after, shown)
    stages = [_Stage(model, base, after, shown, where, placed) for where in placed]
    listed = [one for one in stages if one.listed]
    changed = [one for one in listed if (one.shard, one.stage) in affected or one.place not in trusted]
    logged = [one for one in listed if one.place in new]
    findings += _about_logs(listed, [one for one in listed if one not in changed], old, new)
    findings += [finding for one in logged for finding in one.findings()]
    findings += _about_adapters(stages, new)
    last = [model / one.place for one in stages if one.stage == after.slices - 1]
    summed = add_adapters(base.model, last, int(after.options["seed"])) if after.combine == SUM and not findings else None
    return Plan(
        kind="shards",
        courses=tuple(one.course(fresh) for one in changed if one.place in new and one.windows is not None),
        used=frozenset(after.records),
        root=root,
        final=None if summed is None else weights_digest(summed),
        unchanged=len(logged) - len(changed),
        forget_segments=len(affected),
        training_tokens=sum(one.tokens() for one in logged),
        findings=tuple(findings),
    )


def _about_logs(
    listed: Sequence["_Stage"], left: Sequence["_Stage"], old: Mapping[str, CommittedLog], new: Mapping[str, CommittedLog]
) -> Iterator[Finding]:
    """Check which stages have logs, and that those which the deletion left alone have the committed ones.

    Args:
        listed: the stages with records.
        left: those among them that held no forget record.
        old, new: the logs before and after the deletion, by place.
    """
    for one in listed:
        if one.place not in new:
            yield Finding(kind="stage", what=f"{one.place} has no training log.")
        elif one in left and old[one.place].root != new[one.place].root:
            yield Finding(kind="stage", what=f"{one.place} held no forget record, but is not the committed one.")
    for place in sorted(set(new) - {one.place for one in listed}):
        yield Finding(kind="stage", what=f"{place} has a log, but no record belongs there.")


def _about_plans(then: ShardsDescription, after: ShardsDescription, base: LoadedModel, shown: Shown) -> Iterator[Finding]:
    """Compare the descriptions before and after the deletion."""
    for what, one, other in (
        ("shards", then.shards, after.shards),
        ("slices", then.slices, after.slices),
        ("combination", then.combine, after.combine),
        ("options", then.options, after.options),
        ("base", then.base_weights, after.base_weights),
    ):
        if one != other:
            yield Finding(kind="log", what=f"The {what} of the shards differ from those before the deletion.")
    if after.base_weights != base.digest:
        yield Finding(kind="base", what=f"The shards were not trained on this base: they name {after.base_weights[:16]}.")
    if set(after.records) != set(then.records) - shown.forget_names:
        yield Finding(kind="schedule", what="The records of the shards are not those before the deletion without the forget set.")
    if not set(then.records) & shown.forget_names:
        yield Finding(kind="records", what="None of the forget records was in the shards: the model was not trained on them.")


def _affected(then: ShardsDescription, shown: Shown) -> set[tuple[int, int]]:
    """Return the stages that held a forget record: its own slice and the later ones of its shard, by the record's own hash."""
    held = {shard_and_slice(record, shown.key, then.shards, then.slices) for record in shown.forget}
    return {(shard, later) for shard, stage in held for later in range(stage, then.slices)}


def _placed(plan: ShardsDescription, shown: Shown) -> dict[tuple[int, int], list[str]]:
    """Place the records that stay, by their own hashes; each slice in the order of the keyed hashes."""
    placed: dict[tuple[int, int], list[str]] = {(shard, stage): [] for shard in range(plan.shards) for stage in range(plan.slices)}
    for record in shown.training:
        name = shown.key.of(record.fingerprint)
        if name in plan.records:
            placed[shard_and_slice(record, shown.key, plan.shards, plan.slices)].append(name)
    return {where: sorted(names) for where, names in placed.items()}


def _stage_options(plan: ShardsDescription, shard: int, stage: int) -> dict[str, Any]:
    """Derive the options of a stage from those of the whole training."""
    epochs, seed = stage_epochs(plan.options["epochs"], plan.slices), stage_seed(int(plan.options["seed"]), shard, stage)
    return {**plan.options, "lora": True, "epochs": epochs, "seed": seed, "save_steps": 0}


class _Stage:
    """One stage of a sharded training: what its plan and the shown records make of it."""

    def __init__(
        self,
        model: Path,
        base: LoadedModel,
        plan: ShardsDescription,
        shown: Shown,
        where: tuple[int, int],
        placed: Mapping[tuple[int, int], Sequence[str]],
    ) -> None:
        """Place a stage in its plan.

        Args:
            model: the deleted model's folder.
            base, plan, shown: the base below all shards, the plan, and the records.
            where: shard and slice.
            placed: keyed hashes of all records that stay, by shard and slice.
        """
        (self.shard, self.stage), self.model, self.base, self.plan, self.shown = where, model, base, plan, shown
        self.place = f"shard-{self.shard}/slice-{self.stage}"
        self.listed = [name for one in range(self.stage + 1) for name in placed[self.shard, one]]

    @property
    def seed(self) -> int:
        """Seed of the adapter's first weights, which depends on the shard alone."""
        return int(self.plan.options["seed"]) + self.shard

    @cached_property
    def log(self) -> TrainingLog:
        """The stage's training log."""
        return TrainingLog.read(self.model / self.place / LOG_NAME)

    @cached_property
    def windows(self) -> dict[int, Encoded] | None:
        """The encoded windows of its log; None where a record was not shown."""
        return encoded_windows(self.log, self.shown, self.base)

    def tokens(self) -> int:
        """Count the tokens of all of its steps; 0 where a record was not shown."""
        windows = self.windows or {}
        used = (index for entry in self.log.microbatches for index in entry.records if index in windows)
        return sum(len(windows[index].input_ids) for index in used)

    def findings(self) -> Iterator[Finding]:
        """Check that the stage's log is that of its options, seed and records."""
        if self.log.options != _stage_options(self.plan, self.shard, self.stage):
            yield Finding(kind="log", what=f"{self.place} was trained with other options than the plan gives it.")
        if self.log.tokenizer != self.base.tokenizer_digest:
            yield Finding(kind="tokenizer", what=f"{self.place} was trained with another tokenizer or chat template.")
        if list(dict.fromkeys(self.log.records)) != list(dict.fromkeys(self.listed)):
            yield Finding(kind="schedule", what=f"{self.place} was not trained on the records that belong there.")
        elif self.windows is not None:
            yield from own_findings(self.log, [len(self.windows[index].input_ids) for index in range(len(self.log.records))])

    def starter(self) -> Callable[[Any], Any]:
        """Return what gives a base the adapter that the stage starts from; it holds no model itself."""
        options = SimpleNamespace(**{**self.plan.options, "lora": True, "seed": self.seed})
        earlier = self.model / f"shard-{self.shard}" / f"slice-{self.stage - 1}" / WEIGHTS if self.stage else None
        return partial(_with_adapter, options=options, earlier=earlier)

    def course(self, fresh: Callable[[], Any]) -> Course:
        """Describe the execution of the stage."""
        start = self.starter()
        return Course(
            place=self.place,
            log=self.log,
            windows=self.windows or {},
            start_model=lambda: start(fresh()),
            tokenizer=self.base.tokenizer,
            served=self.model / self.place,
            forget=() if self.windows is None else forget_windows(self.log, self.shown, self.base),
        )


def _with_adapter(base: Any, *, options: Any, earlier: Path | None) -> Any:
    """Return a base with an adapter: that of the stage before, or a new one."""
    adapted = attach_adapter(base, options)
    if earlier is not None:
        put_adapter_file(adapted, earlier)
    return adapted


def _about_served(model: Path, plan: ShardsDescription) -> Iterator[Finding]:
    """Check that the served ensemble is the last stage of every shard, on this base."""
    about = read_json(model / ENSEMBLE)
    served = list(about.get("adapters", {})) if isinstance(about, dict) else []
    if served != [f"shard-{shard}/slice-{plan.slices - 1}" for shard in range(plan.shards)]:
        yield Finding(kind="weights", what="The served adapters are not the last stages of all shards.")
    elif about.get("base_weights") != plan.base_weights or about.get("combine") != plan.combine:
        yield Finding(kind="weights", what="The shards are served on another base, or combined otherwise, than the plan says.")


def _about_adapters(stages: Sequence[_Stage], logs: Mapping[str, CommittedLog]) -> Iterator[Finding]:
    """Check that every adapter file has the digest that its log ends with, and that of a stage without records is a new one."""
    for one in stages:
        adapted = one.starter()(one.base.model)
        expected = logs[one.place].final_weights if one.place in logs else weights_digest(adapted)
        put_adapter_file(adapted, one.model / one.place / WEIGHTS)
        if weights_digest(adapted) != expected:
            yield Finding(kind="stage", what=f"The adapter of {one.place} is not the one that its training ends with.")
        yield from about_adapter(adapted, one.model / one.place, one.place)
        adapted.unload()
