"""What judged a record claim in place of retrained references, and earlier audits of the same weights or with the same controls."""

import math
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from verify.io.documents import Frozen
from verify.schema.alpha_spending import level_of, level_spent
from verify.schema.parts import Digest, Share, VerdictWord

TABLE_RULE = 4
"""The rule of new audits that a level table judges."""
FIRST_TABLE_RULE = 3
"""That of older registrations and evidence: one prior for the variances of all records, controls not compared by level."""
TABLE_RULES = (FIRST_TABLE_RULE, TABLE_RULE)
"""All rules of audits that a level table judges."""


class LevelTableUsed(Frozen):
    """The level table that judged an audit: by whom it was made, when, of which models, and what of it was used.

    Attributes:
        digest: SHA-256 of its signed header.
        signer: id of the key that is said to have signed the header; None where it is unsigned.
        trusted: whether the auditor gave that key, so that the signature was verified.
        created: when it was signed, by its maker's clock; ISO 8601.
        destroyed: when no file of the pool's weights was left, by the same clock.
        design: digest of the design, which was fixed before a model of the pool was trained.
        seed: seed of the design; it draws which of the pool's models stand for each control subject.
        models: M, the models of the pool.
        judging: how many of them judged; the others were for the unlearning method, where it read the table too.
        left_out: phi, the share of the models that never saw a given subject.
        references: R, how many of the judging models never saw a given subject.
        original: digest of the weights that the table belongs to.
        descended: whether the audit's model before unlearning was made from these weights by earlier deletions, by its manifest;
            False where it has these weights.
        rows, rows_signed: records that it holds now and held when it was signed; rows of deleted records have left.
        controls: records of the auditor's half of the controls, all of which were scored.
        controls_signed: how many these were when the table was signed; None in evidence of earlier versions.
    """

    digest: Digest
    signer: str | None
    trusted: bool
    created: str
    destroyed: str
    design: Digest
    seed: int = Field(ge=0)
    models: int = Field(ge=2)
    judging: int = Field(ge=1)
    left_out: Share
    references: int = Field(ge=1)
    original: Digest
    descended: bool = False
    rows: int = Field(ge=1)
    rows_signed: int = Field(ge=1)
    controls: int = Field(ge=1)
    controls_signed: int | None = Field(default=None, ge=1)

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what earlier versions did not know: evidence is written as it was read."""
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if name != "controls_signed" or value is not None}

    @property
    def what(self) -> str:
        """The table in one phrase: "a level table of 8 models, each trained without half of the people"."""
        return f"a level table of {self.models} models, each trained without {share_in_words(self.left_out)} of the people"


def table_rule_in_words(rule: int) -> str:
    """Return one of `TABLE_RULES` as it is said: "rule 4"; of rule 3 with what it does not ask."""
    return f"rule {rule}" if rule == TABLE_RULE else f"rule {rule}, which does not compare the controls by level"


def share_in_words(share: float) -> str:
    """Return a share as it is said: "half", "a quarter", "30 %"."""
    known = {0.5: "half", 0.25: "a quarter", 0.75: "three quarters"}
    return known.get(share, f"{100 * share:.3g} %")


class Look(Frozen):
    """An earlier audit of the same weights.

    Attributes:
        created: when it was made, ISO 8601.
        verdict: its word.
        judged_by: what it was judged by, in words: "4 references", "a level table", "no references".
        evidence: SHA-256 of its evidence.json.
        same_records: False where it is known to be about other forget records.
        registration: digest of its registration; None where it had none.
    """

    created: str
    verdict: VerdictWord
    judged_by: str = Field(min_length=1, max_length=100)
    evidence: Digest
    same_records: bool = True
    registration: Digest | None = None

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a registration that there was not."""
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if name != "registration" or value is not None}

    @property
    def said(self) -> str:
        """The audit in a few words."""
        other = "" if self.same_records else ", other records"
        return f"{self.verdict} ({self.judged_by}, {self.created[:10]}{other})"


ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def looks_in_words(looks: tuple[Look, ...]) -> str:
    """Count the audits of these weights, this one included, and name the earlier ones; whether there were more nobody can know."""
    which = ordinal(len(looks) + 1)
    return f"This is at least the {which} audit of these weights. Earlier: {'; '.join(look.said for look in looks)}."


def ordinal(number: int) -> str:
    """Return a number as it is counted: "first", "tenth", "11th"."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return ORDINALS[number - 1] if number <= len(ORDINALS) else f"{number}{ending}"


class ControlsAccount(Frozen):
    """Account of the audits that used the same never-trained controls, whose false accusations depend on each other.

    Attributes:
        controls: what they are identified by: digest of the level table's header, or of the set of controls.
        number: which of these audits this is, from 1, by date; further looks at the same request count.
        counted: who counted them: the operator's ledger, or the auditor by the evidence that was given.
        earlier: SHA-256 of the evidence of earlier ones, where that was given.
        expected: number of audits that was planned for beforehand; None where every audit accuses at alpha.
        level: level of this audit's accusations, all together.
        spent: probability, at most, that any of the audits up to this one accuses an honest deletion, all of them made with the
            same alpha and plan.
    """

    controls: Digest
    number: int = Field(ge=1)
    counted: Literal["ledger", "evidence"]
    earlier: tuple[Digest, ...] = ()
    expected: int | None = Field(default=None, ge=1)
    level: float = Field(gt=0, lt=0.5)
    spent: Share

    @classmethod
    def of(
        cls, alpha: float, expected: int | None, controls: str, number: int, earlier: tuple[str, ...] | None = None
    ) -> "ControlsAccount":
        """Make the account of an audit.

        Args:
            alpha: level of the audit. expected: number of audits that was planned for; None for no plan.
            controls: what identifies the controls.
            number: which of their audits this is.
            earlier: digests of the evidence of the earlier ones; None where a ledger counted them.
        """
        return cls(
            controls=controls,
            number=number,
            counted="ledger" if earlier is None else "evidence",
            earlier=earlier or (),
            expected=expected,
            level=level_of(alpha, expected, number),
            spent=level_spent(alpha, expected, number),
        )

    def wrong(self, alpha: float, expected: int | None) -> str | None:
        """Return how it contradicts itself or the settings of its audit; None where it does not.

        Args:
            alpha, expected: level and planned number of audits, by the settings.
        """
        if self.expected != expected:
            return f"the account plans for {self.expected} audits, the settings for {expected}"
        if len(self.earlier) >= self.number:
            return f"audit {self.number} against the same controls names {len(self.earlier)} earlier ones"
        right = level_of(alpha, expected, self.number), level_spent(alpha, expected, self.number)
        if not all(math.isclose(one, other) for one, other in zip((self.level, self.spent), right, strict=True)):
            return (
                f"audit {self.number} accuses at {self.level:g} and {self.spent:g} is spent; they are {right[0]:g} and {right[1]:g}"
            )
        return None

    def said(self, alpha: float) -> str:
        """Say how many audits used these controls, at which level, and what they have spent.

        Args:
            alpha: level of the audit, by its settings.
        """
        which = f"the {ordinal(self.number)} audit against the same controls"
        first = f"This is {which}, by the operator's ledger"
        if self.counted == "evidence":
            first = f"This is at least {which}, by the evidence that was given"
        if self.expected is None:
            if self.number == 1:
                return f"{first}: an honest deletion is accused with a probability of up to {self.spent:.3g}."
            together = f"any of the {self.number} accuses an honest deletion with a probability of up to {self.spent:.3g}"
            return f"{first}: it accuses at level {alpha:g}, and if the others accused at no more, {together}."
        beyond = f", beyond the {self.expected} planned" if self.number > self.expected else f" of {self.expected} planned"
        return (
            f"{first}{beyond}: its accusations were made at level {self.level:.3g}, and those of all of them so far add up to "
            f"{self.spent:.3g} of {alpha:g}. Certificates need no such account."
        )
