"""What the schemas of whole files share: a name with a version, written atomically, read strictly."""

import hashlib
from pathlib import Path
from typing import ClassVar, Self

from pydantic import ConfigDict, ValidationError

from verify.errors import InputError
from verify.files import write_text
from verify.findings import Frozen
from verify.strict_json import NotStrictError, parse_json


class Document(Frozen):
    """A file of its own.

    Attributes:
        called: what a message calls it, with its version.
        remedy: what to do where a file is not one.
    """

    called: ClassVar[str]
    remedy: ClassVar[str]

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )

    def text(self) -> str:
        """The file's content."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the file that `save` writes, in hexadecimal."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write it as JSON, atomically."""
        write_text(path, self.text())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read it.

        Raises:
            InputError: the file is missing, cut off, of another version, or not what the schema allows.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}). Give the path of an existing file.") from None
        return cls.parse(content, str(path))

    @classmethod
    def parse(cls, content: str | bytes, where: str) -> Self:
        """Read it from JSON text; `where` names its place in messages.

        Raises:
            InputError: it is not what the schema allows; the message names the first field that is not, never its content.
        """
        try:
            parse_json(content, constants=True)  # the schema refuses constants, and says where
        except NotStrictError as error:
            # The name is content here, and may be anybody's name.
            raise InputError(f"{where} is no {cls.called}: {error.reason}. {cls.remedy}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is no {cls.called}: it is not whole JSON ({type(error).__name__}). {cls.remedy}") from None
        try:
            # JSON has no tuples, so lists are accepted for them; everything else stays strict.
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            # A field's name that the schema does not know is content, and may be anybody's name.
            known = first["loc"][:-1] if first["type"] == "extra_forbidden" else first["loc"]
            place = ".".join(str(part) for part in known) or "the whole"
            reason = "it has a field that the schema does not name" if known != first["loc"] else first["msg"]
            raise InputError(f"{where} is no {cls.called}: {place}: {reason}. {cls.remedy}") from None
