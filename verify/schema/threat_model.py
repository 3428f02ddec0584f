"""Threat model of an attack: what its attacker sees and does."""

from typing import Literal

from pydantic import Field

from verify.io.documents import Frozen


class ThreatModel(Frozen):
    """Who could mount an attack.

    Attributes:
        attack: its name, as on the command line.
        family: "membership" (was the record trained on?) or "extraction" (does its text come out?).
        idea: how it works, in one line.
        source: the paper it comes from.
        sees: what the attacker has, one phrase each.
        passes: approximate number of extra forward passes per record, beyond the shared one.
        references: smallest number of retrained models the attacker needs.
    """

    attack: str
    family: Literal["membership", "extraction"]
    idea: str
    source: str
    sees: tuple[str, ...] = Field(min_length=1)
    passes: float = Field(ge=0)
    references: int = Field(ge=0)
