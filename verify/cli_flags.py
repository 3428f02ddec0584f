"""Flags that several commands of `verify-unlearning` share."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from verify.evidence import Settings
    from verify.findings import VerdictWord
    from verify.records import Fields

EXIT_STATUS: "dict[VerdictWord, int]" = {"EQUIVALENT_WITHIN": 0, "NOT_FORGOTTEN": 10, "INCONCLUSIVE": 11, "NOT_TESTABLE": 12}


@dataclasses.dataclass(frozen=True)
class FieldFlags:
    """Which column of the files holds what."""

    text_field: str = "text"
    prompt_field: str = "prompt"
    completion_field: str = "completion"
    messages_field: str = "messages"
    id_field: str = "example_id"
    subject_field: str = "subject_id"
    secret_field: str = "secret"
    read_special_tokens: bool = False
    """Read special tokens that texts spell out as tokens, not as letters: for text that another program rendered."""

    def fields(self) -> "Fields":
        """The mapping these flags describe."""
        from verify.records import Fields

        return Fields(
            text=self.text_field,
            prompt=self.prompt_field,
            completion=self.completion_field,
            messages=self.messages_field,
            id=self.id_field,
            subject=self.subject_field,
            secret=self.secret_field,
            special_tokens=self.read_special_tokens,
        )


@dataclasses.dataclass(frozen=True)
class SetFlags:
    """The records that an audit reads."""

    forget: Path
    """The records that were to be removed, or a list of example or subject ids (with --data)."""
    retain: Path | None = None
    """Records the model was to keep; for the utility gate."""
    holdout: Path | None = None
    """Records like the forget set that no model was trained on; for membership attacks."""
    fresh: Path | None = None
    """Texts of the forget set's subjects that no model was trained on; for the user level."""
    data: Path | None = None
    """The file the original was trained on."""

    def sets(self) -> dict[str, str | None]:
        """The same under the argument names of `verify.audit`."""
        named = {"forget_set": self.forget, "retain_set": self.retain, "holdout_set": self.holdout, "fresh_set": self.fresh}
        return {name: None if path is None else str(path) for name, path in {**named, "data": self.data}.items()}


@dataclasses.dataclass(frozen=True)
class SettingsFlags:
    """Everything that is decided before looking."""

    attacks: tuple[str, ...] = ()
    """Attacks to run: quick, standard, full, or names; the default is standard."""
    margin: float = 0.10
    """rho*: the largest residual fraction that counts as forgotten."""
    alpha: float = 0.05
    """Level of every test."""
    utility_tolerance: float = 0.10
    """The largest loss of retain utility that is accepted."""
    retain_records: int = 400
    """At most so many retain records are scored."""
    twins: bool = False
    """The holdout was drawn at random when the data came in: its records are exact controls (Tier C)."""
    canary_guesses: int = 100
    """How many coins are guessed, of the canary pairs with the clearest scores (Tier A)."""
    epsilon: float = 1.0
    """epsilon*: the largest leak of the deletion procedure that counts as deleted, in nats."""
    overflow: Literal["refuse", "split"] = "refuse"
    """What to do with records longer than the context."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision to load the models in; the one that is deployed."""
    seed: int = 0
    """Seed of every random draw of the audit."""

    def settings(self) -> "Settings":
        """The settings these flags describe.

        Raises:
            InputError: a value is out of range; the message names the flag.
        """
        from pydantic import ValidationError

        from verify.errors import InputError
        from verify.evidence import Settings

        try:
            return Settings(**dataclasses.asdict(self))
        except ValidationError as error:
            first = error.errors()[0]
            flag = str(first["loc"][0]).replace("_", "-")
            raise InputError(f"--{flag} {first['input']} cannot be used: {first['msg']}.") from None
