"""Comparison of the tensors in weight files with those of a model; a tensor without a counterpart is an error.

`transformers` and PEFT load the tensors that fit and initialise the others at random, or leave them as in the base, with at most a
warning: the result is not the model in the folder. All loading code of this project passes the loader's own report, and the names
and shapes on both sides, to `require_placed`. Tied weights (stored once), buffers that are computed, and tensors that the
architecture itself declares as dispensable (`_keys_to_ignore_on_load_*`) are exempt.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from verify.errors import InputError

Shape = tuple[int, ...]
COMPUTED = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")
"""Buffers in old checkpoints of any architecture that models now compute."""
OLD_NAMES = ((".gamma", ".weight"), (".beta", ".bias"))
"""Endings that `transformers` renames in checkpoints of any architecture."""
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "base_model.model.base_model.model.")


@dataclass(frozen=True)
class Unplaced:
    """Tensors that have no counterpart, or one of another shape.

    Attributes:
        missing: names that are in the model only.
        left_over: names that are in the files only.
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
    """Raise an error with counts and first names if there are unplaced tensors or complaints.

    Args:
        unplaced: missing, left over and reshaped tensors.
        what: name of the loaded object in the message.
        advice: what the user should do; replaced where the names show that a wrapped model was saved.
        error: `InputError`, or `IntegrityError` for a file that this project wrote.
        extra: further complaints of the loader.

    Raises:
        InputError: see above (or another `error`).
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
    """Compare the tensors in files with a whole `transformers` model, by that library's rules for tensors that may be absent.

    An architecture whose checkpoints are rearranged on loading (stacked experts, say) has other names in its files than in memory,
    and a quantized layer has other tensors: for these the result is empty, and only the loader's own report counts.
    """
    if getattr(model, "is_quantized", False) or is_rearranged(model):
        return Unplaced()
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    renamed: dict[str, Shape] = {}
    twice = set()
    for name in sorted(stored):
        target = _own_name(name, own, model)
        if target in renamed:  # two stored tensors mean one weight: the loader keeps the first and reports nothing
            twice.add(name)
        renamed.setdefault(target, stored[name])
    found = compared(renamed, own)
    tied = _tied(model)
    absent = re.compile("|".join(_patterns(model, "missing") or ["(?!)"]))  # (?!) matches nothing
    ignored = re.compile("|".join([*COMPUTED, *_patterns(model, "unexpected")]))
    return Unplaced(
        frozenset(name for name in found.missing if not absent.search(name) and not tied.get(name, set()) & renamed.keys()),
        frozenset(name for name in found.left_over | twice if not ignored.search(name)),
        found.reshaped,
    )


def is_rearranged(model: Any) -> bool:
    """Return whether the loader converts checkpoints of this model, so that names in files differ from those in memory."""
    if getattr(model, "_checkpoint_conversion_mapping", None):
        return True
    if not hasattr(model, "config"):
        return False
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping

        return bool(get_model_conversion_mapping(model, add_legacy=False))
    except (ImportError, TypeError):  # another version of transformers: rely on its report alone
        return True


def _own_name(name: str, own: Mapping[str, Shape], model: Any) -> str:
    """Map a stored name to the model's: headless checkpoints lack the base model's prefix, old ones have old endings."""
    for old, new in OLD_NAMES:
        if name.endswith(old) and name not in own:
            name = name.removesuffix(old) + new
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for candidate in (name, prefix + name, name.removeprefix(prefix)):
        if candidate in own:
            return candidate
    return name


def _tied(model: nn.Module) -> dict[str, set[str]]:
    """Map every name of a shared parameter to all of its names."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {name: group for group in names.values() if len(group) > 1 for name in group}


def _patterns(model: Any, kind: str) -> list[str]:
    return [f"({pattern})" for pattern in getattr(model, f"_keys_to_ignore_on_load_{kind}", None) or []]


def _first(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return f" (first {ordered[0]})" if ordered else ""
