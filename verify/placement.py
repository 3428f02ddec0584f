"""Comparison of what weight files hold with what a model has: a weight that cannot be placed is an error.

`transformers` and PEFT load what fits and draw the rest at random, or leave it as the base had it, with at most a warning: a model
answers that is not the one in the folder. Whoever loads weights in this project hands the loader's own report, and the names and
shapes on both sides, to `require_placed`. Not counted are tied weights (stored once), buffers that are computed, and what the
architecture itself declares as dispensable (`_keys_to_ignore_on_load_*`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from verify.errors import InputError

Shape = tuple[int, ...]
COMPUTED = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")
"""Buffers that old checkpoints of any architecture hold and that models compute."""
OLD_NAMES = ((".gamma", ".weight"), (".beta", ".bias"))
"""Endings that `transformers` renames in checkpoints of any architecture."""
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "base_model.model.base_model.model.")


@dataclass(frozen=True)
class Unplaced:
    """What could not be placed.

    Attributes:
        missing: names that the model has and the files do not.
        left_over: names in the files for which the model has no place.
        reshaped: name -> (shape in the files, shape in the model), where these differ.
    """

    missing: frozenset[str] = frozenset()
    left_over: frozenset[str] = frozenset()
    reshaped: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.missing or self.left_over or self.reshaped)

    def __or__(self, other: "Unplaced") -> "Unplaced":
        reshaped = {**self.reshaped, **other.reshaped}
        return Unplaced((self.missing | other.missing) - reshaped.keys(), self.left_over | other.left_over, reshaped)

    def __str__(self) -> str:
        parts = [f"{len(self.missing)} tensors are missing{_first(self.missing)}"]
        parts.append(f"{len(self.left_over)} are left over{_first(self.left_over)}")
        shapes = ""
        if self.reshaped:
            name = min(self.reshaped)
            stored, own = self.reshaped[name]
            shapes = f" (first {name}: {list(stored)} in the file, {list(own)} in the model)"
        return ", ".join([*parts, f"{len(self.reshaped)} have another shape{shapes}"])


def require_placed(
    unplaced: Unplaced, what: str, advice: str, error: type[InputError] = InputError, extra: Iterable[str] = ()
) -> None:
    """Raise an error with the counts and first names where a weight was not placed.

    Args:
        unplaced: missing, left over and reshaped tensors.
        what: what was loaded, as a user calls it.
        advice: what to do, unless the names show it.
        error: `InputError`, or `IntegrityError` for a file of this project's own.
        extra: further complaints of the loader.
    """
    complaints = [" ".join(message.split()) for message in extra]
    if not unplaced and not complaints:
        return
    said = f" The loader says: {complaints[0]}" if complaints and not unplaced else ""
    wrapped = next((part for part in WRAPPERS for name in sorted(unplaced.left_over) if f".{part}" in f".{name}"), None)
    if wrapped is not None:
        advice = (
            f"They are named as a wrapped model saves them ({wrapped}). Unwrap the model before saving it "
            "(accelerator.unwrap_model(model).save_pretrained(...)), or rename the tensors."
        )
    raise error(f"the weights of {what} do not fit the model: {unplaced}.{said} {advice}")


def compared(stored: Mapping[str, Shape], own: Mapping[str, Shape]) -> Unplaced:
    """Compare names and shapes in files with those of a model, name by name."""
    reshaped = {name: (stored[name], own[name]) for name in stored.keys() & own.keys() if stored[name] != own[name]}
    return Unplaced(frozenset(own.keys() - stored.keys()), frozenset(stored.keys() - own.keys()), reshaped)


def compared_with_model(stored: Mapping[str, Shape], model: Any) -> Unplaced:
    """Compare the tensors in files with a whole `transformers` model, by that library's rules of what may be absent.

    An architecture whose checkpoints are rearranged while they are loaded (experts that are stacked, say) has other names in its
    files than in memory, and a quantized layer other tensors: nothing is said about these here, only by the loader's own report.
    """
    if getattr(model, "is_quantized", False) or is_rearranged(model):
        return Unplaced()
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    renamed = {_own_name(name, own, model): shape for name, shape in stored.items()}
    found = compared(renamed, own)
    tied = _tied(model)
    absent = re.compile("|".join(_patterns(model, "missing") or ["(?!)"]))
    ignored = re.compile("|".join([*COMPUTED, *_patterns(model, "unexpected")]))
    return Unplaced(
        frozenset(name for name in found.missing if not absent.search(name) and not tied.get(name, set()) & renamed.keys()),
        frozenset(name for name in found.left_over if not ignored.search(name)),
        found.reshaped,
    )


def is_rearranged(model: Any) -> bool:
    """Whether the loader converts this model's checkpoints tensor by tensor, so that names in files are not those in memory."""
    if getattr(model, "_checkpoint_conversion_mapping", None):
        return True
    if not hasattr(model, "config"):
        return False
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping

        return bool(get_model_conversion_mapping(model, add_legacy=False))
    except (ImportError, TypeError):  # another version: only its report is relied on
        return True


def _own_name(name: str, own: Mapping[str, Shape], model: Any) -> str:
    """A stored name as the model has it: headless checkpoints lack the base model's prefix, old ones have old endings."""
    for old, new in OLD_NAMES:
        if name.endswith(old) and name not in own:
            name = name.removesuffix(old) + new
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for candidate in (name, prefix + name, name.removeprefix(prefix)):
        if candidate in own:
            return candidate
    return name


def _tied(model: nn.Module) -> dict[str, set[str]]:
    """For every name of a shared parameter, all of its names."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {name: group for group in names.values() if len(group) > 1 for name in group}


def _patterns(model: Any, kind: str) -> list[str]:
    return [f"({pattern})" for pattern in getattr(model, f"_keys_to_ignore_on_load_{kind}", None) or []]


def _first(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return f" (first {ordered[0]})" if ordered else ""
