"""Flags that several commands of `verify-unlearning` share."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from verify.data.records import Fields
    from verify.schema.parts import VerdictWord
    from verify.schema.settings import Settings

SETTINGS_NEEDS = {
    **dict.fromkeys(("utility_tolerance", "utility_ceiling", "retain_records"), "--retain or --data"),
    **dict.fromkeys(("twins", "shard_siblings"), "--holdout"),
    "relearning_rate": "no --channels or --channels relearned and --holdout",
}
"""What settings of an audit need to have an effect, where its records are given."""
EXIT_STATUS: "dict[VerdictWord, int]" = {"EQUIVALENT_WITHIN": 0, "NOT_FORGOTTEN": 10, "INCONCLUSIVE": 11, "NOT_TESTABLE": 12}


@dataclasses.dataclass(frozen=True)
class FieldFlags:
    """Columns of the files; the default is the column that the model was trained on, else the name in the flag's help."""

    text_field: str | None = None
    """Plain text (text)."""
    prompt_field: str | None = None
    """The model's input (prompt)."""
    completion_field: str | None = None
    """The expected output (completion)."""
    messages_field: str | None = None
    """The messages of a chat (messages)."""
    id_field: str | None = None
    """The record's identifier (example_id)."""
    subject_field: str | None = None
    """The person a record is about, or a list of persons (subject_id)."""
    secret_field: str | None = None
    """The passage that extraction attacks look for (secret)."""
    read_special_tokens: bool = False
    """Read special tokens spelled out in texts as special tokens, not as plain text: for text rendered by a chat template."""

    def fields(self, *models: "str | Path | None") -> "Fields":
        """Return the columns of the flags; others as the first of the models with a record of them was trained on."""
        from verify.data.reading import remembered_fields
        from verify.data.records import Fields

        given: dict[str, Any] = {
            "text": self.text_field,
            "prompt": self.prompt_field,
            "completion": self.completion_field,
            "messages": self.messages_field,
            "id": self.id_field,
            "subject": self.subject_field,
            "secret": self.secret_field,
            "special_tokens": self.read_special_tokens or None,
        }
        known = remembered_fields(model for model in models if model is not None) or Fields()
        return dataclasses.replace(known, **{name: value for name, value in given.items() if value is not None})


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
    """Never-trained texts of the forget set's subjects; for the user level."""
    data: Path | None = None
    """The file the original was trained on."""

    def sets(self) -> dict[str, Any]:
        """Return the same under the argument names of `verify.audit`."""
        named = {"forget_set": self.forget, "retain_set": self.retain, "holdout_set": self.holdout, "fresh_set": self.fresh}
        return {name: None if path is None else str(path) for name, path in {**named, "data": self.data}.items()}


@dataclasses.dataclass(frozen=True)
class SettingsFlags:
    """Settings of an audit, fixed before any result is seen."""

    attacks: tuple[str, ...] = ()
    """Attacks to run: quick, standard, full, or names; the default is standard."""
    margin: float = 0.10
    """rho*: the largest residual fraction that counts as forgotten."""
    alpha: float = 0.05
    """Level of every test."""
    utility_tolerance: float = 0.10
    """The largest accepted loss of retain utility."""
    utility_ceiling: float = 1.25
    """The largest retain utility relative to the references' for a certificate; above it they were not trained on the retain set as
    the model was, and above twice theirs nothing is judged."""
    retain_records: int = 400
    """Largest number of retain records that are scored."""
    twins: bool = False
    """The holdout was drawn at random when the data was collected: its records are exact held-out controls (Tier C)."""
    shard_siblings: bool = False
    """Rank the rebuilt shards of a model in shards among its other shards, which never saw the records; both models' folders and
    --holdout are needed. It accuses from 40 shards on at the default level, and certifies nothing."""
    canary_guesses: int = 100
    """Number of canary assignments guessed, those with the clearest scores (Tier A)."""
    epsilon: float = 1.0
    """epsilon*: the largest leak of the deletion procedure that counts as deleted, in nats."""
    overflow: Literal["refuse", "split"] = "refuse"
    """Treatment of records longer than the context."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision to load the models in; use the deployed one."""
    seed: int = 0
    """Seed of every random draw of the audit."""
    channels: tuple[str, ...] = ()
    """Ways of asking besides the exact text: rewordings, instruction, few-shot, no-prompt, layers, int8, int4, relearned, or exact
    for none; the default is all of them where there are --holdout and --references."""
    relearning_rate: float | None = None
    """Learning rate of the channel `relearned`; the default is a tenth of the fine-tuning's, by the original's training log."""
    expected_audits: int | None = None
    """Number of audits planned for against the same --holdout or level table, one each deletion and look. They share alpha for
    accusations, so that a false one among all of them has a probability of at most alpha; by default each has all of it."""

    def settings(self) -> "Settings":
        """Return the settings of these flags.

        Raises:
            InputError: a value is out of range; the message names the flag.
        """
        from pydantic import ValidationError

        from verify.errors import InputError
        from verify.schema.settings import Settings

        try:
            return Settings(**{**dataclasses.asdict(self), "channels": self.channels or None})
        except ValidationError as error:
            first = error.errors()[0]
            flag = str(first["loc"][0]).replace("_", "-")
            raise InputError(f"--{flag} {first['input']} cannot be used: {first['msg']}.") from None
