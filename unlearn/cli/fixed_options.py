"""Options that a model leaves without an effect: it is an adapter, it is finished, or a rebuild repeats the training that made it.

Whether they have one depends on the model's files, so the tables of needs (`verify.cli.needs`) cannot say it.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearn.training.options import ADAPTER_OPTIONS, TrainingOptions
from verify.cli.needs import flag_of, unmet_need
from verify.errors import InputError
from verify.io.files import MANIFEST, read_json
from verify.provenance.training_log import resolved

_OPTIONS = tuple(field.name for field in dataclasses.fields(TrainingOptions))


def require_new_adapter(model: Any, typed: Collection[str]) -> None:
    """Refuse options of a new adapter where the model is one, which is trained itself.

    Raises:
        InputError: the message names each option, and what to do for a new adapter.
    """
    given = [name for name in ADAPTER_OPTIONS if name in typed]
    if not given:
        return
    from verify.models.memory import is_adapter_folder

    if is_adapter_folder(model):
        flags, has, it = ", ".join(map(flag_of, given)), *(("has", "it") if len(given) == 1 else ("have", "them"))
        raise InputError(
            f"{flags} {has} no effect here: {model} is an adapter already, and is trained as it is. Leave {it} out, or give a "
            "model with whole weights for a new adapter."
        )


def require_another_training(folder: Path, options: TrainingOptions, typed: Collection[str]) -> None:
    """Refuse options that change nothing about a rebuild, which repeats the training of the model in a folder.

    An option at its default leaves the original's, and one may have no effect beside the original's others.

    Raises:
        InputError: the message has a line for each such option, with what the original was trained with.
    """
    if typed_training := [name for name in _OPTIONS if name in typed]:
        _require_change(folder, options, typed_training)


def _require_change(folder: Path, options: TrainingOptions, typed: Sequence[str]) -> None:
    """Do it for training options, at least one of which was typed."""
    from unlearn.finetuning import recipe_of

    recipe = recipe_of(folder)
    original = {} if recipe is None else {name: value for name, value in recipe.options.items() if value is not None}
    stock, asked = TrainingOptions(), dataclasses.asdict(options)
    values = {name: original.get(name, value) if value == getattr(stock, name) else value for name, value in asked.items()}
    wrong = list(_without_change(typed, asked, values, folder))
    unchanged = [name for name in typed if asked[name] == values[name] and asked[name] is not False]
    needs = {name: unmet_need(TrainingOptions.NEEDS.get(name, ""), values) for name in unchanged}
    wrong += [_ineffective(name, need[0], values, folder, known=recipe is not None) for name, need in needs.items() if need]
    if wrong:
        raise InputError("\n       ".join(wrong))


def _without_change(typed: Sequence[str], asked: Mapping[str, Any], values: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Yield the message for every option that is at its default, where the original had another value."""
    for name in (name for name in typed if asked[name] != values[name]):
        yield (
            f"{_written(name, asked[name])} has no effect here: the default leaves what {folder} was trained with, "
            f"{_written(name, values[name])}. Leave it out{'' if isinstance(asked[name], bool) else ', or give another value'}."
        )


def _ineffective(name: str, need: str, values: Mapping[str, Any], folder: Path, *, known: bool) -> str:
    """Return the message for an option that has no effect beside the others of a training that is repeated."""
    flag, _, wanted = need.removeprefix("no ").partition(" ")
    if not need.startswith("no "):
        was = f"{folder} was trained without {flag}, which is repeated"
        was = was if known else f"nothing says that {folder} was trained with {flag}"
        remedy = f"Give {flag} as well, or leave {flag_of(name)} out"
    else:
        other = flag.removeprefix("--").replace("-", "_")
        was = f"{folder} was trained with {_written(other, wanted or values[other])}, which is repeated"
        remedy = f"Leave it out, or give another {flag}"
    return f"{flag_of(name)} has no effect here: {was}. {remedy}."


def require_as_trained(folder: Path, given: Mapping[str, Any], typed: Collection[str]) -> None:
    """Refuse options that a finished model cannot follow any more, as it was trained with others.

    Args:
        folder: the finished model's.
        given: options by name, as they are now.
        typed: names of the options that were typed.

    Raises:
        InputError: the message names the first such option, and what the model was trained with.
    """
    from unlearn.finetuning import recipe_of

    about, recipe = read_json(folder / MANIFEST)["about"], recipe_of(folder)
    inputs = about.get("inputs") or {}
    trained = {
        **({} if recipe is None else resolved(recipe.options)),
        **{name: inputs[name] for name in ("dtype", "quantize") if name in inputs},
        "holdout_share": about.get("holdout_share"),
        "canaries": about.get("canary_pairs", 0),
        **({"defense": "none"} if recipe is not None and recipe.defense is None else {}),
    }
    now = resolved(given)
    for name in (name for name in now if name in typed and name in trained and now[name] != trained[name]):
        raise InputError(
            f"{folder} holds a finished model, which was trained with {_shown(trained[name])} as {flag_of(name)}, not "
            f"{_shown(now[name])}; it is kept. Leave {flag_of(name)} out, or give another --output."
        )


def _shown(value: Any) -> str:
    """Return the value of an option in a sentence."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def _written(name: str, value: Any) -> str:
    """Return an option as it is typed."""
    if isinstance(value, bool):
        return flag_of(name) if value else f"--no-{flag_of(name).removeprefix('--')}"
    return f"{flag_of(name)} {value}"
