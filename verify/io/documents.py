"""Base of versioned documents: written atomically, read strictly."""

import hashlib
from pathlib import Path
from typing import ClassVar, Self

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
        called: its name in error messages, with its version.
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
            raise InputError(f"{where} is no {cls.called}: {error.reason}. {cls.remedy}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is no {cls.called}: it is not whole JSON ({type(error).__name__}). {cls.remedy}") from None
        try:
            # JSON has no tuples, so lists are accepted for them; everything else stays strict.
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            # The name of an unknown field is not shown: it is content, and may be a person's name.
            known = first["loc"][:-1] if first["type"] == "extra_forbidden" else first["loc"]
            field = ".".join(str(part) for part in known) or "the whole"
            reason = "it has a field that the schema does not name" if known != first["loc"] else first["msg"]
            raise InputError(f"{where} is no {cls.called}: {field}: {reason}. {cls.remedy}") from None
