"""Near-duplicates of forget records among the records to keep: they stay in the model, and a verdict can be about them."""

from typing import Any, Self

from pydantic import Field, model_validator

from verify.io.documents import Frozen
from verify.schema.parts import RecordHash
from verify.schema.reexecution import Likeness

LISTED = 100
"""Largest number of pairs that are listed; all of them are counted."""


class NearDuplicatesLeft(Frozen):
    """Records to keep whose text is nearly that of a forget record.

    Attributes:
        compared: records to keep that were compared: all that the audit was given.
        records: how many of them are near-duplicates of a forget record.
        forget: the forget records that they are nearly, by keyed hash.
        listed: the records to keep, each with the forget record that it is most similar to, most similar first; at most `LISTED`.
    """

    compared: int = Field(ge=1)
    records: int = Field(ge=0)
    forget: tuple[RecordHash, ...]
    listed: tuple[Likeness, ...]

    @model_validator(mode="after")
    def _counted(self) -> Self:
        """Refuse counts that do not fit what is listed."""
        if self.records > self.compared or len(self.listed) != min(self.records, LISTED):
            raise ValueError(f"{self.records} of {self.compared} are near-duplicates, and {len(self.listed)} are listed")
        if not {pair.forget for pair in self.listed} <= set(self.forget) or bool(self.forget) != bool(self.records):
            raise ValueError("near-duplicates of other forget records than those named are listed, or none is counted")
        return self

    @property
    def counts(self) -> dict[str, Any]:
        """Return the numbers without the names, as a certificate states them."""
        return {"compared": self.compared, "records": self.records, "forget": len(self.forget)}


def left_in_words(compared: int, records: int, forget: int, *, by_table: bool) -> str:
    """Say how many near-duplicates stay, and what that does to a verdict.

    References are trained on the records to keep and know what these alone leave of the others; a level table's models saw neither.

    Args:
        compared, records: as for `NearDuplicatesLeft`. forget: number of forget records that have a near-duplicate.
        by_table: whether a level table judged.
    """
    if not records:
        return f"None of the {compared} records to keep that were given is a near-duplicate of a forget record."
    them = "a near-duplicate" if records == 1 else "near-duplicates"
    whose = "a forget record" if forget == 1 else f"{forget} forget records"
    said = f"{records} of the {compared} records to keep that were given {'is' if records == 1 else 'are'} {them} of {whose}."
    if by_table:
        return (
            f"{said} The level table's models saw neither, so an honest deletion that keeps {'it' if records == 1 else 'them'} can "
            "be accused: an accusation can be about what stays."
        )
    return f"{said} What the model still says of the deleted can come from what stays; references trained on it show how much."
