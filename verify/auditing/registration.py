"""Pre-registration of an audit: records, controls and every setting, fixed in a file before unlearning.

An auditor who can pick attacks, margins or controls after seeing the scores can reach any verdict. A registration fixes which
records are to be forgotten (as keyed hashes), which controls are used, which references at least, and every setting. Evidence names
its digest; whoever received the digest beforehand knows that nothing was chosen afterwards.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from verify.data.identity import RecordKey, set_digest
from verify.data.records import Record
from verify.errors import InputError
from verify.io.documents import Frozen, invalid_field
from verify.io.files import write_text
from verify.io.strict_json import NotStrictError, parse_json
from verify.schema.inputs import CLOCKS, Registered
from verify.schema.judged_by import TABLE_RULES
from verify.schema.parts import Digest, RecordHash, SetRole
from verify.schema.settings import Settings


class RegisteredSet(Frozen):
    """One set of records as sorted keyed hashes: identifies exactly these records without revealing anything about them."""

    role: SetRole
    records: tuple[RecordHash, ...] = Field(min_length=1)


class Registration(Frozen):
    """Everything that was decided before unlearning.

    Attributes:
        created: time by the writer's clock. Proof is the digest that was sent to somebody else.
        sets: forget set, controls, and every other set the audit will read.
        settings: statistics, margins, levels, seeds, and the deployed precision.
        canaries: the commitment to the canary assignments, if any.
        rewordings: the commitment to the rewordings that the audit will ask in, if any; it reveals nothing about them.
        references: weight digests of the references that the audit will compare with; it may add others.
        level_table: digest of the header of the level table that will judge, by rule 3 or 4.
    """

    schema_: Literal["unlearn-verify/registration/1"] = Field(default="unlearn-verify/registration/1", alias="schema")
    created: str
    sets: tuple[RegisteredSet, ...]
    settings: Settings
    canaries: Digest | None = None
    rewordings: Digest | None = None
    references: tuple[Digest, ...] = ()
    level_table: Digest | None = None

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what earlier versions did not have and this registration does not use: the digest is over what is written."""
        content: dict[str, Any] = handler(self)
        return {name: part for name, part in content.items() if name not in ("rewordings", "references", "level_table") or part}

    @model_validator(mode="after")
    def _judge(self) -> Self:
        """Require the level table's digest by rule 3 or 4, and by no other."""
        if (self.settings.rule in TABLE_RULES) != (self.level_table is not None):
            raise ValueError("rule 3 or 4, and no other, names the level table that will judge")
        return self

    @classmethod
    def of(
        cls,
        sets: Mapping[SetRole, Sequence[Record]],
        settings: Settings,
        key: RecordKey,
        canaries: str | None = None,
        rewordings: str | None = None,
        references: Sequence[str] = (),
        level_table: str | None = None,
    ) -> Self:
        """Register these sets, settings, commitments and references as of now."""
        listed = tuple(
            RegisteredSet(role=role, records=tuple(sorted(key.of(record.fingerprint) for record in records)))
            for role, records in sets.items()
        )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(
            created=now,
            sets=listed,
            settings=settings,
            canaries=canaries,
            rewordings=rewordings,
            references=tuple(references),
            level_table=level_table,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the content in canonical form (sorted keys, no spaces)."""
        content = json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def controls(self) -> str | None:
        """What identifies the never-trained controls: the level table, else the set of holdout records; None without controls."""
        holdout = next((entry.records for entry in self.sets if entry.role == "holdout"), None)
        return self.level_table if self.level_table is not None or holdout is None else set_digest(holdout)

    def named(self) -> Registered:
        """Return the reference that evidence holds."""
        return Registered(digest=self.digest, created=self.created)

    def require(self, sets: Mapping[SetRole, Sequence[Record]], key: RecordKey, canaries: str | None) -> None:
        """Check that exactly the registered sets and canaries are audited.

        Raises:
            InputError: a set or the canaries are missing, added or not the registered ones; the message says which.
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

    def require_judge(self, level_table: str | None) -> None:
        """Check that the registered level table judges, or retrained references where none was registered.

        Args:
            level_table: digest of the header of the table that was given; None without one.

        Raises:
            InputError: another table, a table where none was registered, or none where one was.
        """
        if self.level_table == level_table:
            return
        if level_table is None:
            raise InputError(
                f"the registration names the level table {str(self.level_table)[:16]}. Give its folder with --level-table, or "
                "audit without --registration."
            )
        known = "no level table" if self.level_table is None else f"the level table {self.level_table[:16]}"
        raise InputError(
            f"the registration names {known}, given was {level_table[:16]}. What judges is chosen before unlearning: "
            + ("give the registered table." if self.level_table else "register with --level-table, or leave it out here.")
        )

    def require_past(self, now: datetime) -> None:
        """Check that the registration is not dated after `now`, allowing for the clocks of several hosts.

        Raises:
            InputError: its date is invalid, over an hour in the future, or has no time zone.
        """
        try:
            ahead = datetime.fromisoformat(self.created) - now > CLOCKS
        except (TypeError, ValueError):
            raise InputError(
                f"the registration's date {self.created!r} is not a date. Give the file that `register` wrote."
            ) from None
        if ahead:
            raise InputError(
                f"the registration is dated {self.created}, but now it is {now.isoformat(timespec='seconds')}. "
                "Set the clock, or give the file that `register` wrote."
            )

    def save(self, path: str | Path) -> None:
        """Write the registration, atomically; an existing file is never replaced.

        Raises:
            InputError: the file exists already.
        """
        if Path(path).exists():
            raise InputError(f"{path} exists. A registration is written once; give a new file with --output.")
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
            raise InputError(f"{path} cannot be read ({error.strerror}). Give the file that `register` wrote.") from None
        except ValidationError as error:
            place, reason = invalid_field(error, cls)
            raise InputError(
                f"{path} is not a registration of this version: {place or 'the file'}: {reason}. Restore it."
            ) from None
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path} is not a registration: {error if isinstance(error, NotStrictError) else type(error).__name__}. Restore it."
            ) from None
