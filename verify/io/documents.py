"""Base of versioned documents: written atomically, read strictly."""

import hashlib
import inspect
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from verify.errors import InputError
from verify.io.files import write_text
from verify.io.strict_json import NotStrictError, parse_json


class Frozen(BaseModel):
    """Base of all schema parts: strict types, no unknown fields, no NaN, no infinity, immutable."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Document(Frozen):
    """A versioned document in a file of its own.

    Attributes:
        called: its name in error messages, with its version; it follows the article "a".
        remedy: advice for a file that is not such a document.
    """

    called: ClassVar[str]
    remedy: ClassVar[str]

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )

    def text(self) -> str:
        """Return the file's content."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the file that `save` writes, in hexadecimal."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the document as JSON, atomically."""
        write_text(path, self.text())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the document from a file.

        Raises:
            InputError: the file is missing, truncated, of another version, or does not match the schema.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}). Give the path of an existing file.") from None
        return cls.parse(content, str(path))

    @classmethod
    def parse(cls, content: str | bytes, where: str) -> Self:
        """Parse the document from JSON text.

        Args:
            content: the text.
            where: its source's name in error messages.

        Raises:
            InputError: it does not match the schema; the message names the first such field, never its content.
        """
        try:
            parse_json(content, constants=True)  # the schema refuses constants, with the field's name
        except NotStrictError as error:
            # The repeated name is not shown: it is content, and may be a person's name.
            raise InputError(f"{where} is not a {cls.called}: {error.reason}. {cls.remedy}") from None
        except (ValueError, RecursionError) as error:
            wrong = f"it is not whole JSON ({type(error).__name__})"
            raise InputError(f"{where} is not a {cls.called}: {wrong}. {cls.remedy}") from None
        try:
            # JSON has no tuples, so lists are accepted for them; everything else stays strict.
            return cls.model_validate_json(content)
        except ValidationError as error:
            field, reason = invalid_field(error, cls)
            raise InputError(f"{where} is not a {cls.called}: {field or 'the whole'}: {reason}. {cls.remedy}") from None


def invalid_field(error: ValidationError, *models: type[BaseModel]) -> tuple[str, str]:
    """Return where a document first departs from its schema, "" for the whole of it, and how, without its content.

    Names that the schema does not know, such as those of an object with free names, are content, and may be a person's name: they
    are shown as dots.

    Args:
        error: what reading raised.
        models: the schemas, one of which was read.
    """
    first, known = error.errors()[0], frozenset[str]().union(*(_field_names(model) for model in models))
    unknown = first["type"] == "extra_forbidden"
    place = first["loc"][:-1] if unknown else first["loc"]
    shown = [str(part) if isinstance(part, int) or part in known else "..." for part in place]
    said = first["msg"].removeprefix("Value error, ")  # of a check of this program's own, which pydantic marks so
    return ".".join(shown), "it has a field that the schema does not name" if unknown else said


@lru_cache
def _field_names(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of all fields of a schema and of its parts, as they are written."""
    found, seen, waiting = set[str](), set[Any](), list[Any]([model])
    while waiting:
        kind = waiting.pop()
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            if kind not in seen:
                seen.add(kind)
                found |= {written for name, field in kind.model_fields.items() for written in (name, field.alias or name)}
                waiting += [field.annotation for field in kind.model_fields.values()]
        else:
            waiting += get_args(kind)
    return frozenset(found)
