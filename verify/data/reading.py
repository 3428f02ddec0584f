"""How records are read, as the manifest of a trained model records it: columns, and spelled-out special tokens.

A model that was trained on special tokens is audited on another text than it saw where they are read as letters, and the other way
round. Columns that were named for the training need not be named again.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from verify.data.records import Fields
from verify.errors import InputError
from verify.io.files import MANIFEST, read_json
from verify.schema.evidence import Settings


def remembered_fields(models: Iterable[Any]) -> Fields | None:
    """Return the columns that the first of these models with a record of them was trained on; None where none has one."""
    for model in models:
        recorded = _recorded_fields(model)
        if recorded is not None:
            known = {field.name for field in dataclasses.fields(Fields)}
            if not recorded.keys() <= known:
                continue  # written by a later version: what its further columns mean is not known here
            return Fields(**recorded)
    return None


def fields_for(fields: Fields | None, models: Iterable[Any], sources: Iterable[Any]) -> Fields | None:
    """Return the given columns, else those the models were trained on where all records come from files.

    Args:
        fields: as the caller gave them.
        models: the models of the run, in order of precedence.
        sources: its records; rows in memory keep the default columns, as nothing says that they come from the training's files.
    """
    if fields is not None or not all(_is_file(source) for source in sources if source is not None):
        return fields
    return remembered_fields(models)


def _is_file(source: Any) -> bool:
    """Whether a source is a file or name, or a list of identifiers in one."""
    return isinstance(source, str | Path) or (isinstance(source, list) and all(isinstance(entry, str) for entry in source))


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
    """Return how the training of a model's folder read special tokens; None where nothing says so."""
    recorded = _recorded_fields(model)
    return None if recorded is None else bool(recorded.get("special_tokens", False))


def _recorded_fields(model: Any) -> dict[str, Any] | None:
    """Return the columns in the manifest of a model's folder; None where there are none."""
    if not isinstance(model, str | Path) or not (Path(model) / MANIFEST).is_file():
        return None
    manifest = read_json(Path(model) / MANIFEST)
    about = manifest.get("about") if isinstance(manifest, dict) else None
    inputs = about.get("inputs") if isinstance(about, dict) else None
    fields = inputs.get("fields") if isinstance(inputs, dict) else None
    return fields if isinstance(fields, dict) else None
