"""How the training of a model is repeated on a part of its records: base, stages in order, options, and the data of each stage."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.training.options import TrainingOptions
from verify.data.canaries import CANARIES_NAME
from verify.data.identity import RecordKey
from verify.data.reading import remembered_fields
from verify.data.records import Fields, Record
from verify.data.sources import load_records
from verify.errors import InputError
from verify.io.files import file_digest, verify_manifest
from verify.provenance.recipe import recipe_digest
from verify.provenance.shard_plan import SHARDS
from verify.provenance.training_history import Stage, history_of


@dataclass(frozen=True)
class TrainedStage:
    """One training on the way to the original.

    Attributes:
        data: path of its training records.
        fields: their columns.
        options: its options by name.
    """

    data: str
    fields: Mapping[str, Any]
    options: Mapping[str, Any]

    def records(self) -> list[Record]:
        """Read its training data, controls included.

        Raises:
            InputError: the file cannot be read.
        """
        return load_records(self.data, Fields(**self.fields))

    def options_for(self, seed: int, share: float) -> TrainingOptions:
        """Return the options of a repetition on a share of the records: as many passes, and no files on the way."""
        steps = self.options.get("max_steps")
        return dataclasses.replace(
            TrainingOptions(**self.options),
            seed=seed,
            max_steps=None if steps is None else max(1, round(steps * share)),
            save_steps=0,
            keep_checkpoints=None,
            report_to="none",
        )


@dataclass(frozen=True)
class Repetition:
    """What is needed to train like the original. Plain data: it is sent to worker processes.

    Attributes:
        original, tokenizer, recipe: digests of its weights and tokenizer, and of the recipe.
        start: digest of the weights that its first stage started from.
        base: folder, Hub name or configuration of that model.
        base_tokenizer: folder of the tokenizer, where the base has none.
        dtype, quantize: how it was loaded.
        stages: its trainings, first to last.
        tokens: tokens of its own training, where its manifests say.
    """

    original: str
    tokenizer: str
    recipe: str
    start: str
    base: str
    base_tokenizer: str | None
    dtype: str
    quantize: str | None
    stages: tuple[TrainedStage, ...]
    tokens: int | None

    @property
    def from_scratch(self) -> bool:
        """Whether the base is a configuration, whose weights each training draws by its own seed."""
        return Path(self.base).suffix == ".json"


def repetition_of(folder: Path, data: str | Path | None, fields: Fields | None, base: str | None) -> Repetition:
    """Find out how a model's training can be repeated.

    Args:
        folder: the finished original.
        data: its training records; None takes the file that its manifest names.
        fields: their columns, which must be those of the training where it read a file; None takes these.
        base: the model that its training started from, the first one where a log says that it was trained several times; None
            takes the one that its manifest names.

    Raises:
        InputError: the training cannot be repeated; the message says why, and what to do.
    """
    about = verify_manifest(folder, "model")["about"]
    if (folder / SHARDS).is_file():
        raise InputError(
            f"{folder} was trained in shards, whose siblings never saw each other's subjects: they serve as references of a "
            "rebuilt shard, and need no table. Leave --level-table out, or train without --shards."
        )
    history = history_of(folder)
    assert history is not None, "it is a folder"
    if history.last.method is not None or "method" in about:
        raise InputError(
            f"{folder} was made by unlearning ({about.get('method')}), not by a training. Make the table for the model that it "
            "was made from; it serves its descendants too."
        )
    stages = history.logged
    if not stages or history.last.log is None:
        raise InputError(f"{folder} has no training log, so its training cannot be repeated. Train it with `unlearn train`.")
    for stage in stages:
        _require_repeatable(stage)
    first = stages[0]
    named = (first.inputs.get("models") or {}).get("model")
    _require_first(folder, stages, base, named)
    start = base or named
    if start is None:
        raise InputError(f"the manifest of {first.folder} does not name the model that its training started from. Give its folder.")
    recipe, final, begun = recipe_digest(stages), history.weights, first.start
    if recipe is None or final is None or begun is None:
        raise InputError(f"the manifest of {folder} does not name its weights. Give the folder as `unlearn train` wrote it.")
    counts = [(stage.about.get("training") or {}).get("tokens") for stage in stages]
    tokens = [count for count in counts if isinstance(count, int)]
    return Repetition(
        original=final,
        tokenizer=history.last.log.tokenizer,
        recipe=recipe,
        start=begun,
        base=str(start),
        base_tokenizer=(first.inputs.get("models") or {}).get("tokenizer"),
        dtype=str(first.inputs.get("dtype") or "auto"),
        quantize=first.inputs.get("quantize"),
        stages=(*(_trained_stage(stage, None, None) for stage in stages[:-1]), _trained_stage(stages[-1], data, fields)),
        tokens=sum(tokens) if len(tokens) == len(counts) else None,
    )


def _require_first(folder: Path, stages: Sequence[Stage], base: str | None, named: str | None) -> None:
    """Refuse a base that an earlier logged training made: the pool must repeat it, too, as it may have seen the same people."""
    if base is None or not Path(base).is_dir():
        return
    given = history_of(base)
    weights = None if given is None else given.weights
    later = [stage for stage in stages[1:] if stage.start is not None and stage.start == weights]
    if later or any(Path(base).resolve() == stage.folder.resolve() for stage in stages[:-1]):
        remedy = "Give that model's folder as base" if named is None else f"Leave the base out, or give {named}"
        raise InputError(
            f"{base}, given as base of the pool of {folder}, was trained itself, by the log in it. A pool repeats all "
            f"{len(stages)} trainings without the people whom a model leaves out, and the first of them, that of "
            f"{stages[0].folder}, started from another model. {remedy}."
        )


def _require_repeatable(stage: Stage) -> None:
    log, where = stage.log, stage.folder
    assert log is not None, "only trainings with a log are asked"
    why = None
    if not log.finished:
        why = "its training did not finish. Run the same `unlearn train` again to finish it"
    elif log.defense is not None:
        why = f"it was trained under {log.defense}, which logs no steps. A table needs a training without a defence"
    elif (where / CANARIES_NAME).is_file():
        why = "it was trained with canaries, which are in no file. Use the canaries for the audit, or train without them"
    elif log.key_check is not None and log.key_check != RecordKey.load().check:
        why = f"its log was written under another record key. Restore the key file ({RecordKey.default_path()})"
    if why is not None:
        raise InputError(f"the training of {where} cannot be repeated on a part of the data: {why}.")


def _trained_stage(stage: Stage, data: str | Path | None, fields: Fields | None) -> TrainedStage:
    """Describe a stage by the file that was given, or that its manifest names, unchanged."""
    assert stage.log is not None, "only trainings with a log are asked"
    named = (stage.inputs.get("sets") or {}).get("data")
    path = named if data is None else str(data)
    if path is None:
        raise InputError(f"the manifest of {stage.folder} does not name its training file. Give it with --data FILE.")
    digest = (stage.inputs.get("digests") or {}).get("data")
    if data is None and digest is not None and (not Path(path).is_file() or file_digest(path) != digest):
        raise InputError(f"the training file of {stage.folder} ({path}) is missing or has changed since. Restore it.")
    trained = remembered_fields([stage.folder])
    if named is not None and trained is not None and fields is not None:
        _require_same_columns(stage.folder, fields, trained)
    columns = (fields if data is not None else None) or trained or Fields()
    where = str(Path(path).resolve()) if Path(path).exists() else path
    return TrainedStage(where, dataclasses.asdict(columns), dict(stage.log.options))


def _require_same_columns(folder: Path, given: Fields, trained: Fields) -> None:
    """Refuse other columns than those of the training.

    Another subject column would divide the records of one person among the models: those that are said never to have seen the
    person would have been trained on other records of theirs.
    """
    own, other = dataclasses.asdict(trained), dataclasses.asdict(given)
    differing = [f"{name} {value!r} instead of {own[name]!r}" for name, value in other.items() if value != own[name]]
    if differing:
        raise InputError(
            f"the columns for the level table are not those that {folder} was trained with ({', '.join(differing)}). Leave them "
            "out, or give those of the training."
        )


def trained_records(folder: Path, stages: Sequence[TrainedStage], key: RecordKey) -> tuple[list[list[Record]], list[Record]]:
    """Read what each stage was trained on, by the logs.

    Args:
        folder: the original, with the log of its last stage.
        stages: as in `Repetition`.
        key: names the records in the logs.

    Returns:
        the records of every stage, in order; and all of them, each content once.

    Raises:
        InputError: a log names records that the files lack.
    """
    history = history_of(folder)
    assert history is not None, "it is a folder"
    found, every = [], dict[str, Record]()
    for stage, trained in zip(history.logged, stages, strict=True):
        assert stage.log is not None, "only trainings with a log are asked"
        names = stage.log.names
        own = [record for record in trained.records() if key.of(record.fingerprint) in names]
        missing = len(names) - len({key.of(record.fingerprint) for record in own})
        if missing:
            raise InputError(
                f"{missing} of {len(names)} training records of {stage.folder} are not in its training file "
                f"({Path(trained.data).name}): the data changed since. Restore the file; without all records, the pool would not "
                "be trained like the model."
            )
        found.append(own)
        every |= {record.fingerprint: record for record in own}
    return found, list(every.values())
