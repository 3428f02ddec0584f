"""Registration: every choice in writing before anyone looks.

An auditor who may pick attacks, margins or controls after seeing the scores can reach any verdict. A registration fixes, before
unlearning, which records are to be forgotten (as keyed hashes), which controls are used and every setting. Evidence names its
digest; whoever received the digest beforehand knows that nothing was chosen afterwards.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import ConfigDict, Field, ValidationError

from verify.errors import InputError
from verify.evidence import Settings
from verify.files import write_text
from verify.findings import Digest, Frozen, RecordHash, Registered, SetRole
from verify.identity import RecordKey
from verify.records import Record
from verify.strict_json import NotStrictError, parse_json


class RegisteredSet(Frozen):
    """One set of records, as keyed hashes in sorted order: it names exactly these records and says nothing about them."""

    role: SetRole
    records: tuple[RecordHash, ...] = Field(min_length=1)


class Registration(Frozen):
    """What was decided before unlearning.

    Attributes:
        created: when, by the writer's clock. The digest, sent to somebody else, is what proves it.
        sets: forget set, controls, and whatever else the audit will read.
        settings: statistics, margins, levels, seeds, and the precision that is deployed.
        canaries: the commitment to the canaries' coins, where there are some.
    """

    schema_: Literal["unlearn-verify/registration/1"] = Field(default="unlearn-verify/registration/1", alias="schema")
    created: str
    sets: tuple[RegisteredSet, ...]
    settings: Settings
    canaries: Digest | None = None

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )

    @classmethod
    def of(cls, sets: Mapping[SetRole, Sequence[Record]], settings: Settings, key: RecordKey, canaries: str | None = None) -> Self:
        """Fix these sets and settings now."""
        listed = tuple(
            RegisteredSet(role=role, records=tuple(sorted(key.of(record.fingerprint) for record in records)))
            for role, records in sets.items()
        )
        return cls(created=datetime.now(UTC).isoformat(timespec="seconds"), sets=listed, settings=settings, canaries=canaries)

    @property
    def digest(self) -> str:
        """SHA-256 of the content in canonical form (sorted keys, no spaces)."""
        content = json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def named(self) -> Registered:
        """How evidence refers to it."""
        return Registered(digest=self.digest, created=self.created)

    def require(self, sets: Mapping[SetRole, Sequence[Record]], key: RecordKey, canaries: str | None) -> None:
        """Refuse to audit anything else than what was registered.

        Raises:
            InputError: a set is missing, added or other than registered, or the canaries are; the message says which.
        """
        registered = {entry.role: set(entry.records) for entry in self.sets}
        given = {role: {key.of(record.fingerprint) for record in records} for role, records in sets.items()}
        for role in sorted(registered.keys() | given.keys()):
            if registered.get(role) != given.get(role):
                now, then = len(given.get(role, ())), len(registered.get(role, ()))
                shared = len(registered.get(role, set()) & given.get(role, set()))
                raise InputError(
                    f"the {role} set is not the registered one: {then} records were registered, {now} were given, {shared} are in "
                    "both. Give the registered files with the same key file, or audit without --registration."
                )
        if self.canaries != canaries:
            raise InputError("the canaries are not the registered ones. Give the canaries.json of the registered training run.")

    def require_past(self, now: datetime) -> None:
        """Refuse a registration that says that it was made after `now`.

        Raises:
            InputError: its date is no date, lies ahead, or has no time zone.
        """
        try:
            ahead = datetime.fromisoformat(self.created) > now
        except (TypeError, ValueError):
            raise InputError(f"the registration's date {self.created!r} is none. Give the file that `register` wrote.") from None
        if ahead:
            raise InputError(
                f"the registration says that it was made at {self.created}, and now it is {now.isoformat(timespec='seconds')}. "
                "Set the clock, or give the file that `register` wrote."
            )

    def save(self, path: str | Path) -> None:
        """Write the registration, atomically; an existing file is never replaced.

        Raises:
            InputError: the file is there already.
        """
        if Path(path).exists():
            raise InputError(f"{path} exists. A registration is written once; name a new file with --output.")
        write_text(path, self.model_dump_json(indent=2, by_alias=True) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a registration.

        Raises:
            InputError: the file is missing, truncated or of another version.
        """
        try:
            content = Path(path).read_bytes()
            parse_json(content)
            return cls.model_validate_json(content)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}). Name the file that `register` wrote.") from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the file"
            raise InputError(f"{path} is not a registration of this version: {place}: {first['msg']}. Restore it.") from None
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path} is not a registration: {error if isinstance(error, NotStrictError) else type(error).__name__}. Restore it."
            ) from None
