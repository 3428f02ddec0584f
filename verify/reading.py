"""One reading of spelled-out special tokens for training and audit, recorded in the settings of both.

A model that was trained on special tokens is audited on another text than it saw where they are read as letters, and the other way
round. What this project trained says in its manifest how it read.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from verify.errors import InputError
from verify.evidence import Settings
from verify.files import MANIFEST, read_json
from verify.records import Fields


def agreed_reading(
    fields: Fields | None, settings: Settings, models: Iterable[Any], registered: bool = False
) -> tuple[Fields, Settings]:
    """Columns and settings of an audit that say the same about special tokens: read as such where either says so.

    Args:
        fields: which columns hold what.
        settings: of the audit.
        models: what it loads; folders are asked how they were trained.
        registered: whether the settings were fixed earlier.

    Raises:
        InputError: a model's manifest says that it was trained otherwise, or other than registered is asked for.
    """
    fields = fields or Fields()
    if registered and fields.special_tokens and not settings.special_tokens:
        raise InputError("the registration reads special tokens as letters. Leave out --read-special-tokens, or register anew.")
    fields = replace(fields, special_tokens=fields.special_tokens or settings.special_tokens)
    require_reading(fields, models)
    return fields, settings.model_copy(update={"special_tokens": fields.special_tokens})


def require_reading(fields: Fields | None, models: Iterable[Any]) -> None:
    """Raise InputError where a model was trained with another reading of special tokens than `fields` asks for."""
    asked = fields is not None and fields.special_tokens
    for model in models:
        trained = _reading_of(model)
        if trained is not None and trained != asked:
            how, flag = ("as tokens", "Give") if trained else ("as letters", "Leave out")
            raise InputError(
                f"{model} was trained on text whose spelled-out special tokens were read {how}. "
                f"{flag} --read-special-tokens (Fields(special_tokens=True)), so that the same text is the same tokens."
            )


def _reading_of(model: Any) -> bool | None:
    """How the training of a model's folder read special tokens; None where nothing says so."""
    if not isinstance(model, str | Path) or not (Path(model) / MANIFEST).is_file():
        return None
    manifest = read_json(Path(model) / MANIFEST)
    about = manifest.get("about") if isinstance(manifest, dict) else None
    inputs = about.get("inputs") if isinstance(about, dict) else None
    fields = inputs.get("fields") if isinstance(inputs, dict) else None
    return bool(fields.get("special_tokens", False)) if isinstance(fields, dict) else None
