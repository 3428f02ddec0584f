"""References that a registration pins: an audit uses all of them, and may add others.

Who can choose among references after looking can choose the verdict. Adding references narrows every interval; leaving one out
does not, and is refused.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from verify.errors import InputError
from verify.io.files import MANIFEST, verify_manifest
from verify.models.loading import LoadedModel, load_model
from verify.schema.inputs import AuditedModel


def digests_of(references: Sequence[Any], dtype: str) -> tuple[str, ...]:
    """Return the digests of the references' weights, each once; a model is loaded only where no manifest names its digest.

    Raises:
        InputError: one cannot be loaded.
        IntegrityError: a folder does not match its manifest.
    """
    return tuple(dict.fromkeys(_stated(source) or load_model(source, dtype=dtype).digest for source in references))


def require_pinned(pinned: Iterable[str], references: Sequence[Any]) -> None:
    """Check, by manifests and before hours of scoring, that no pinned reference was left out.

    Raises:
        InputError: a pinned reference was left out.
    """
    stated = [_stated(source) for source in references]
    if None not in stated:
        _require_all(pinned, stated)


def require_pinned_scored(pinned: Iterable[str], models: Iterable[AuditedModel], dtype: str) -> None:
    """Check that every pinned reference was scored, by the digests of what was loaded.

    Raises:
        InputError: a pinned reference was not scored.
    """
    if dtype == "auto":  # in another precision than stored, the weights have another digest
        _require_all(pinned, [model.weights for model in models if model.role == "reference"])


def _require_all(pinned: Iterable[str], given: Sequence[str | None]) -> None:
    missing = [digest for digest in pinned if digest not in given]
    if missing:
        raise InputError(
            f"{len(missing)} of the registered references are not among those given (first {missing[0][:16]}). References may be "
            "added to those that were registered, never replace them: give all of them with --references."
        )


def _stated(source: Any) -> str | None:
    """Return the digest that a model states of itself: in memory, or in the manifest of its folder; None where there is none."""
    if isinstance(source, LoadedModel):
        return source.digest
    if isinstance(source, (str, Path)) and (Path(source) / MANIFEST).is_file():
        weights = verify_manifest(source)["about"].get("weights")
        return weights if isinstance(weights, str) else None
    return None
