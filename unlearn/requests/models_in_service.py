"""The models that a deletion is about: those that answer users, what they were made from, and their base."""

from collections.abc import Sequence
from pathlib import Path

from unlearn.requests.choices import Choices
from unlearn.scan.lineage import AffectedModel
from verify.errors import InputError
from verify.io.files import MANIFEST, read_json
from verify.provenance.descent import named_base_of, trained_records
from verify.provenance.shard_plan import SHARDS
from verify.provenance.training_log import LOG_NAME


def model_roots(choices: Choices) -> list[str | Path]:
    """Return the folders to search for models, including earlier batches, which contain models in service."""
    return [*choices.models, *([choices.output] if choices.output.is_dir() else [])]


def in_service(affected: Sequence[AffectedModel], named: Sequence[str], replaced: set[str]) -> list[AffectedModel]:
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
    found = {model.weights: model for model in reversed(affected) if model.weights not in replaced and not model.alone}
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


def origin_of(model: AffectedModel, affected: Sequence[AffectedModel]) -> Path:
    """Return the folder that records what a model was trained on: the nearest with a log or shards, else one with a list."""
    ancestry = ancestry_of(model, affected)
    logged = (step.folder for step in ancestry if any((step.folder / name).is_file() for name in (LOG_NAME, SHARDS)))
    listed = (step.folder for step in ancestry if trained_records(step.folder))
    return next(logged, None) or next(listed, model.folder)


def ancestry_of(model: AffectedModel, affected: Sequence[AffectedModel]) -> list[AffectedModel]:
    """Return the model and those it was made from, the nearest first."""
    by_weights = {other.weights: other for other in affected}
    found = [model]
    while (parent := by_weights.get(found[-1].parent or "")) is not None and parent not in found:
        found.append(parent)
    return found


def base_of(model: AffectedModel, affected: Sequence[AffectedModel]) -> str | None:
    """Return the base model that the model, or the nearest of those it was made from, names; None if unknown."""
    named = (named_base_of(step.folder) for step in ancestry_of(model, affected))
    return next((base.place for base in named if base is not None and base.place is not None), None)
