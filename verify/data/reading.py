"""Columns and treatment of special tokens, as recorded in the manifest of a trained model.

An audit must encode the texts as the training did: spelled-out special tokens either as special tokens or as plain text. Columns
that were named for the training need not be named again.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from verify.data.records import Fields
from verify.errors import InputError
from verify.io.files import MANIFEST, read_json
from verify.schema.settings import Settings


def remembered_fields(models: Iterable[Any]) -> Fields | None:
    """Return the columns that the first of these models with a record of them was trained on; None where none has one."""
    for model in models:
        recorded = _recorded_fields(model)
        if recorded is not None:
            known = {field.name for field in dataclasses.fields(Fields)}
            if not recorded.keys() <= known:
                continue  # written by a later version, with columns unknown here
            return Fields(**recorded)
    return None


def fields_for(fields: Fields | None, models: Iterable[Any], sources: Iterable[Any]) -> Fields | None:
    """Return the given columns, else those the models were trained on where all records come from files.

    Args:
        fields: the caller's columns, or None.
        models: the models of the run, in order of precedence.
        sources: the records of the run; rows in memory keep the default columns, as they may not come from the training's files.
    """
    if fields is not None or not all(_is_file(source) for source in sources if source is not None):
        return fields
    return remembered_fields(models)


def _is_file(source: Any) -> bool:
    """Return whether a source is a file or name, or a list of identifiers in one."""
    return isinstance(source, str | Path) or (isinstance(source, list) and all(isinstance(entry, str) for entry in source))


def agreed_reading(
    fields: Fields | None, settings: Settings, models: Iterable[Any], registered: bool = False
) -> tuple[Fields, Settings]:
    """Return columns and settings of an audit that agree on special tokens: encoded as such if either of the two says so.

    Args:
        fields: the caller's columns, or None for the default.
        settings: settings of the audit.
        models: the models of the audit; the manifests of folders are compared.
        registered: whether the settings come from a registration.

    Raises:
        InputError: a model was trained with another treatment of special tokens, or the registration fixed another.
    """
    fields = fields or Fields()
    if registered and fields.special_tokens and not settings.special_tokens:
        raise InputError("the registration reads special tokens as plain text. Leave out --read-special-tokens, or register again.")
    fields = replace(fields, special_tokens=fields.special_tokens or settings.special_tokens)
    require_reading(fields, models)
    return fields, settings.model_copy(update={"special_tokens": fields.special_tokens})


def require_reading(fields: Fields | None, models: Iterable[Any]) -> None:
    """Require that no model was trained with another treatment of special tokens than that of `fields`.

    Raises:
        InputError: a model was trained with another treatment.
    """
    asked = fields is not None and fields.special_tokens
    for model in models:
        trained = _reading_of(model)
        if trained is not None and trained != asked:
            how, flag = ("as tokens", "Give") if trained else ("as plain text", "Leave out")
            raise InputError(
                f"{model} was trained with spelled-out special tokens read {how}. "
                f"{flag} --read-special-tokens (Fields(special_tokens=True)), so that the same text gives the same tokens."
            )


def _reading_of(model: Any) -> bool | None:
    """Return whether a model was trained with special tokens encoded as such; None where its folder does not record it."""
    recorded = _recorded_fields(model)
    return None if recorded is None else bool(recorded.get("special_tokens", False))


def _recorded_fields(model: Any) -> dict[str, Any] | None:
    """Return the columns in the manifest of a model's folder; None if it records none."""
    if not isinstance(model, str | Path) or not (Path(model) / MANIFEST).is_file():
        return None
    manifest = read_json(Path(model) / MANIFEST)
    about = manifest.get("about") if isinstance(manifest, dict) else None
    inputs = about.get("inputs") if isinstance(about, dict) else None
    fields = inputs.get("fields") if isinstance(inputs, dict) else None
    return fields if isinstance(fields, dict) else None
