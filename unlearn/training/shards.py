"""Sharded training (SISA on adapters): a deletion retrains only the stages that saw the record.

A keyed hash of its subject (or content) assigns each record to one of S shards and one of R slices. A shard is an adapter, trained
slice by slice on all slices so far, with a copy saved after each stage. Neither a record's shard and slice nor the order of records
within a shard depends on the other records: deleting some and retraining the affected stages gives, bit for bit, what training
without them from the start gives. Bourtoule et al. 2021 (SISA, arXiv 1912.03817).
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from unlearn.training import distributed
from unlearn.training.checkpoints import WORK, claimed_output
from unlearn.training.log import LOG_NAME
from unlearn.training.method import Context
from unlearn.training.options import TrainingOptions, TrainingResult, together
from unlearn.training.run import Run, log_writer, train_records
from unlearn.training.saving import save_model
from verify.data.identity import RecordKey
from verify.data.records import Fields, Record, RecordSource
from verify.data.sources import load_records
from verify.errors import InputError, IntegrityError
from verify.io.arguments import checked, dtype_name
from verify.io.files import MANIFEST, is_complete, read_json, verify_manifest, write_json, write_manifest
from verify.io.progress import phase
from verify.models.checked_loading import put_adapter_file
from verify.models.digests import weights_digest
from verify.models.ensembles import ENSEMBLE, WEIGHTS, load_ensemble, write_ensemble
from verify.models.loading import LoadedModel, load_model
from verify.models.memory import require_memory_for_training
from verify.provenance.shard_plan import SCHEMA, SHARDS, ShardsDescription, shard_and_slice, stage_epochs, stage_seed
from verify.training.adapters import attach_adapter
from verify.training.shard_sum import add_adapters

Combine = Literal["average", "route", "sum"]
"""How shards are combined: averaged logits, the most certain adapter's logits, or all weight changes added to the base."""


@checked
@dataclass(frozen=True)
class ShardPlan:
    """Division of the data into shards and slices, and combination of the shards.

    Attributes:
        shards: number of shards, S.
        slices: number of slices per shard, R.
        combine: how the shards' outputs are combined.
        options: training options of each shard; `lora` is set.
    """

    shards: int
    slices: int
    combine: Combine
    options: TrainingOptions

    def __post_init__(self) -> None:
        if self.shards < 1 or self.slices < 1:
            raise InputError(f"--shards and --slices must be at least 1, got {self.shards} and {self.slices}.")

    def assign(self, record: Record, key: RecordKey) -> tuple[int, int]:
        """Return shard and slice of a record; records with the same (first) subject are in the same slice."""
        return shard_and_slice(record, key, self.shards, self.slices)

    def stage_options(self, shard: int, stage: int) -> TrainingOptions:
        """Return the training options of one stage, with epochs such that all stages of a shard cost one training of it."""
        epochs, seed = stage_epochs(self.options.epochs, self.slices), stage_seed(self.options.seed, shard, stage)
        return dataclasses.replace(self.options, lora=True, epochs=epochs, seed=seed, save_steps=0)


@dataclass(frozen=True)
class ShardResult:
    """Result of a sharded training.

    Attributes:
        model_dir: the folder of the served model.
        training: steps, tokens and seconds of the stages that were trained.
        trained: (shard, slice) of these stages.
        tokens: tokens of all stages together, trained now or reused.
    """

    model_dir: Path
    training: TrainingResult
    trained: tuple[tuple[int, int], ...]
    tokens: int


@checked
def finetune_shards(
    model: str | Path,
    data: RecordSource,
    *,
    output_dir: str | Path,
    plan: ShardPlan,
    fields: Fields | None = None,
    tokenizer: Any = None,
    dtype: str | torch.dtype = "auto",
) -> ShardResult:
    """Train a model in shards; an interrupted run resumes with the missing stages.

    Args:
        model: the base: a folder or Hub name; it is not copied, and the result refers to it.
        data: the training records.
        output_dir: a new folder, for the served model and every stage.
        plan: how to divide and combine.
        fields: the columns of the records.
        tokenizer: a tokenizer or its folder, for a base without one.
        dtype: precision to load the base with: "auto", "float32", "bfloat16" or "float16", or such a `torch.dtype`.

    Raises:
        InputError: records, base or plan cannot be used.
    """
    if distributed.count() > 1:
        raise InputError("sharded training runs in one process. Start it without torchrun or accelerate launch.")
    precision = dtype_name(dtype)
    require_memory_for_training(model, adapter=True, dtype=precision)
    records = load_records(data, fields)
    _require_filled(plan, records)
    with claimed_output(output_dir) as output:
        loaded = load_model(model, tokenizer=tokenizer, dtype=precision)
        (output / WORK).mkdir(exist_ok=True)
        base = str(Path(model).resolve()) if Path(model).exists() else str(model)
        result = train_stages(loaded, records, plan, output, base, reuse=output)
        served = serve(output, loaded, plan)
        about = {
            "options": dataclasses.asdict(plan.options),
            "training": dataclasses.asdict(result.training),
            "start_weights": loaded.digest,
            "shards": plan.shards,
            "slices": plan.slices,
            "combine": plan.combine,
        }
        save_model(served, loaded.tokenizer, output, about)
        return result


def _require_filled(plan: ShardPlan, records: Sequence[Record]) -> None:
    """Refuse more stages than there are people, or records about nobody, to divide: each costs a training and an adapter on disk.

    A rebuild is not checked: its plan is the original's, whose stages may have lost their records.

    Raises:
        InputError: the message says how many shards and slices the records can fill.
    """
    people = {record.subject_id for record in records} - {None}
    units = len(people) + len({record.fingerprint for record in records if record.subject_id is None})
    if plan.shards * plan.slices <= units:
        return
    whom = "records" if not people else "subjects" if units == len(people) else "subjects, and records without one"
    slices = f" and --slices {plan.slices}" if plan.slices > 1 else ""
    fewer = f", or, with --shards {plan.shards}, at most --slices {units // plan.shards}" if 1 < plan.shards <= units // 2 else ""
    fitting = f"--shards {units // plan.slices}{slices}" if plan.slices <= units else f"--shards 1 and --slices {units}"
    raise InputError(
        f"--shards {plan.shards}{slices} would train {plan.shards * plan.slices} adapters on {units} {whom}; those without a "
        f"record would learn nothing. Give at most {fitting}{fewer if plan.slices > 1 else ''}."
    )


def train_stages(
    base: LoadedModel, records: Sequence[Record], plan: ShardPlan, output: Path, base_source: str, reuse: Path
) -> ShardResult:
    """Train every stage that `reuse` does not contain, identified by the digest of its prefix of records, and copy the others.

    Args:
        base: the base model; its own weights do not change.
        records: all training records.
        plan: how they are divided.
        output: where the stages are written, as `shard-S/slice-R`.
        base_source: folder or Hub name of the base, for later readers.
        reuse: a folder with stages; may be `output`.

    Raises:
        IntegrityError: a stage to reuse does not verify.
    """
    key = RecordKey.load()
    placed: dict[tuple[int, int], list[tuple[str, Record]]] = {}
    for record in records:
        placed.setdefault(plan.assign(record, key), []).append((key.of(record.fingerprint), record))
    write_json(output / SHARDS, _description(base, plan, base_source, placed))
    results = [TrainingResult(0, 0.0, None, 0, 0.0)]
    trained: list[tuple[int, int]] = []
    total, model, stages = 0, base.model, _stages(base.digest, plan, placed)
    missing = sum(not _matches(reuse / stage.place, stage.digest) for stage in stages)
    with phase("training the shards", main=True) as progress:
        for stage in stages:
            if _reused(reuse / stage.place, output / stage.place, stage.digest):
                total += int(read_json(output / stage.place / MANIFEST)["about"]["tokens"])
                continue
            progress(len(trained) / missing, 1 / missing)
            result, model = _train_stage(stage, base, model, plan, output, key)
            if result is not None:
                results.append(result)
                total += result.tokens
            trained.append((stage.shard, stage.number))
    return ShardResult(output, together(results), tuple(trained), total)


def _description(
    base: LoadedModel, plan: ShardPlan, base_source: str, placed: Mapping[tuple[int, int], Sequence[tuple[str, Record]]]
) -> dict[str, Any]:
    """Return the content of `shards.json`: how the records are divided, by their keyed hashes."""
    return {
        "schema": SCHEMA,
        "shards": plan.shards,
        "slices": plan.slices,
        "combine": plan.combine,
        "options": dataclasses.asdict(plan.options),
        "base": base_source,
        "base_weights": base.digest,
        "records": {name: list(where) for where, found in sorted(placed.items()) for name, _ in sorted(found, key=_by_name)},
    }


@dataclass(frozen=True, eq=False)
class _Stage:
    """One stage of a sharded training.

    Attributes:
        shard, number: the shard, and the stage's number in it.
        records: the records of all slices so far, each slice sorted by keyed hash.
        digest: SHA-256 of what determines the stage.
    """

    shard: int
    number: int
    records: Sequence[Record]
    digest: str

    @property
    def place(self) -> Path:
        """Its folder, below that of the model."""
        return Path(f"shard-{self.shard}") / f"slice-{self.number}"


def _stages(base: str, plan: ShardPlan, placed: Mapping[tuple[int, int], Sequence[tuple[str, Record]]]) -> list[_Stage]:
    """List all stages in the order in which they are trained; `placed` has the records of each slice with their keyed hashes."""
    found = []
    for shard in range(plan.shards):
        prefix: list[tuple[str, Record]] = []
        for number in range(plan.slices):
            prefix += sorted(placed.get((shard, number), []), key=_by_name)
            digest = _prefix_digest(base, plan, shard, number, [name for name, _ in prefix])
            found.append(_Stage(shard, number, [record for _, record in prefix], digest))
    return found


def _train_stage(
    stage: _Stage, base: LoadedModel, model: Any, plan: ShardPlan, output: Path, key: RecordKey
) -> tuple[TrainingResult | None, Any]:
    """Train one stage and write its folder.

    Args:
        stage: the stage; without records its adapter is saved as it is.
        base: the base model.
        model: its model, without an adapter.
        plan: the division.
        output: the folder of the whole training.
        key: the record key.

    Returns:
        what was trained, None without records; and the model without its adapter again.
    """
    folder, options = output / stage.place, plan.stage_options(stage.shard, stage.number)
    # The initial adapter depends on the shard alone; later stages overwrite it with the stage before.
    adapted = attach_adapter(model, dataclasses.replace(options, seed=plan.options.seed + stage.shard))
    if stage.number:
        put_adapter_file(adapted, folder.parent / f"slice-{stage.number - 1}" / WEIGHTS)
    folder.mkdir(parents=True, exist_ok=True)
    result = None
    if stage.records:
        # `train_records` keeps an adapter that is attached already.
        around = dataclasses.replace(base, model=adapted, digest=weights_digest(adapted))
        log = log_writer(folder / LOG_NAME, around, stage.records, options, key)
        run = Run(stage.records, options, output / WORK / f"{stage.shard}-{stage.number}", log=log)
        result = train_records(around, run).result
        log.end(weights_digest(adapted))
    adapted.save_pretrained(folder)
    write_manifest(folder, "shard", {"prefix": stage.digest, "tokens": 0 if result is None else result.tokens})
    return result, adapted.unload()


def _by_name(entry: tuple[str, Record]) -> str:
    """Return the sort key of an entry, the record's keyed hash."""
    return entry[0]


def _prefix_digest(base: str, plan: ShardPlan, shard: int, stage: int, names: Sequence[str]) -> str:
    """Compute the SHA-256 of what determines a stage: base, settings, shard and stage, and its records in order."""
    content = [base, plan.slices, dataclasses.asdict(plan.options), shard, stage, list(names)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _matches(folder: Path, digest: str) -> bool:
    """Return whether a folder's manifest names this stage."""
    return (folder / MANIFEST).exists() and read_json(folder / MANIFEST).get("about", {}).get("prefix") == digest


def _reused(old: Path, new: Path, digest: str) -> bool:
    """Return whether a stage exists with this digest, after copying it to its new folder if necessary."""
    if not _matches(old, digest):
        return False
    verify_manifest(old, "shard")
    if old.resolve() != new.resolve() and not is_complete(new, "shard"):
        shutil.copytree(old, new, dirs_exist_ok=True)
    return True


def serve(folder: Path, base: LoadedModel, plan: ShardPlan) -> Any:
    """Build the model that combines all shards; its `save_pretrained` writes what is needed beside the stages."""
    last = [f"shard-{shard}/slice-{plan.slices - 1}" for shard in range(plan.shards)]
    if plan.combine == "sum":
        (folder / ENSEMBLE).unlink(missing_ok=True)
        return add_adapters(base.model, [folder / stage for stage in last], plan.options.seed)
    source = str(read_json(folder / SHARDS)["base"])
    write_ensemble(folder, source, base.digest, last, plan.combine)
    served = load_ensemble(folder, lambda _: base.model)
    served.save_pretrained = lambda *_, **__: None  # the stages and the description are written already
    return served


@dataclass(frozen=True)
class SavedShards:
    """A sharded training loaded from disk.

    Attributes:
        plan: how it is divided and combined.
        base: folder or Hub name of the base model.
        base_weights: digest of the base model.
        records: keyed hash of every training record.
    """

    plan: ShardPlan
    base: str
    base_weights: str
    records: frozenset[str]

    @classmethod
    def read(cls, folder: Path) -> "SavedShards":
        """Read `shards.json`.

        Raises:
            InputError: the file is missing, damaged or of another version.
        """
        about = ShardsDescription.read(folder)
        try:
            plan = ShardPlan(about.shards, about.slices, about.combine, TrainingOptions(**about.options))  # type: ignore[arg-type]
        except TypeError:
            raise InputError(f"{folder / SHARDS} is damaged or of another version ({SCHEMA}). Train the shards again.") from None
        return cls(plan, about.base, about.base_weights, frozenset(about.records))


def rebuild_shards(context: Context, combine: Sequence[Combine]) -> tuple[Any, ShardResult]:
    """Retrain the stages that saw forget records, reuse the others, and return the served model and what was trained.

    Args:
        context: a model in shards with its base, and all remaining records.
        combine: the combinations that the method supports.

    Raises:
        InputError: the model is not of that kind, or a remaining record was not given.
        IntegrityError: the base is not the one that the shards were trained on.
    """
    if context.model_dir is None:
        raise InputError("a model in shards needs its stages, not only its weights. Give its folder.")
    saved, key, base = SavedShards.read(context.model_dir), RecordKey.load(), context.base
    if saved.plan.combine not in combine:
        other = "shard_vectors" if saved.plan.combine == "sum" else "sisa"
        raise InputError(f"these shards are combined by {saved.plan.combine!r}. Use `unlearn forget {other}`.")
    assert base is not None, "the caller checks needs_base"
    if base.digest != saved.base_weights:
        raise IntegrityError(f"{base.name} is not the base that these shards were trained on. Give that one with --base DIR.")
    gone = {key.of(record.fingerprint) for record in context.forget}
    missing = len(saved.records - gone - {key.of(record.fingerprint) for record in context.retain})
    if missing:
        raise InputError(
            f"{missing} remaining training records were not given, and a stage that has one cannot be retrained without it. "
            "Name the whole training file with --data."
        )
    kept = [record for record in context.retain if key.of(record.fingerprint) in saved.records - gone]
    result = train_stages(base, kept, saved.plan, context.output_dir, saved.base, reuse=context.model_dir)
    return serve(context.output_dir, base, saved.plan), result


def shard_facts(result: ShardResult) -> dict[str, Any]:
    """Return the facts of a rebuild: the stages it trained, and their share of a whole training, by tokens."""
    return {
        "stages_trained": [list(stage) for stage in result.trained],
        "share_of_retraining_tokens": result.training.tokens / result.tokens if result.tokens else 0.0,
    }
