"""Ruling of an audit: one verdict over all claims, by precedence.

Within a claim a failed gate that blocks "NOT_TESTABLE" comes before an accusation; an accusation before a failed gate that blocks
"INCONCLUSIVE"; and that before a certificate. Over all claims any accusation stands, unless the utility gate fails: the model no
longer works, or the references do not fit it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from verify.judging.record_claim import RecordClaim
from verify.schema.claims import HeldOutClaim, ProcedureClaim, UserLevelClaim
from verify.schema.parts import Gate, Tier, VerdictWord
from verify.schema.siblings import Siblings

RECORD_TIERS: tuple[Tier, ...] = ("retrained references", "level table")
"""What the record claim can be compared with; the gate that asks for it has the same name."""
OtherClaim = Siblings | HeldOutClaim | UserLevelClaim | ProcedureClaim
"""A claim other than the record claim, with a verdict of its own."""


@dataclass(frozen=True)
class OtherClaims:
    """The claims other than the record claim; None where one is not made.

    Attributes:
        siblings: rebuilt shards among the others.
        twins: held-out controls.
        people: fresh texts of the forget set's subjects.
        process: canaries.
    """

    siblings: Siblings | None
    twins: HeldOutClaim | None
    people: UserLevelClaim | None
    process: ProcedureClaim | None

    def made(self) -> dict[Tier, OtherClaim]:
        """Return the claims that are made, by what they rest on."""
        named: dict[Tier, OtherClaim | None] = {
            "shard siblings": self.siblings,
            "exchangeable twins": self.twins,
            "fresh texts": self.people,
            "canaries": self.process,
        }
        return {tier: claim for tier, claim in named.items() if claim is not None}


@dataclass(frozen=True, eq=False)
class Ruling:
    """What the claims of an audit come to under its gates.

    Attributes:
        claim: the record claim.
        others: the other claims.
        gates: all validity checks.
        verdict: outcome of all claims together.
        accused_by: the claims that accuse; none where the verdict is not an accusation.
    """

    claim: RecordClaim
    others: OtherClaims
    gates: tuple[Gate, ...]
    verdict: VerdictWord
    accused_by: tuple[Tier, ...]

    @classmethod
    def of(cls, claim: RecordClaim, others: OtherClaims, gates: tuple[Gate, ...]) -> "Ruling":
        """Combine the claims under the gates."""
        record, made = claim.word(gates), others.made()
        verdict = _verdict(gates, record, [other.verdict for other in made.values()])
        accusing: tuple[Tier, ...] = claim.accused_by if record == "NOT_FORGOTTEN" else ()
        accusing += tuple(tier for tier, other in made.items() if other.verdict == "NOT_FORGOTTEN")
        return cls(claim, others, gates, verdict, accusing if verdict == "NOT_FORGOTTEN" else ())

    def under(self, gate: Gate) -> "Ruling":
        """Rule again under one more gate."""
        return Ruling.of(self.claim, self.others, (*self.gates, gate))


def _verdict(gates: Sequence[Gate], record: VerdictWord, others: Sequence[VerdictWord]) -> VerdictWord:
    """Combine the claims by precedence: each has passed its own gates, and any accusation stands."""
    if any(gate.name == "utility" and gate.passed is False and gate.blocks == "NOT_TESTABLE" for gate in gates):
        return "NOT_TESTABLE"
    if "NOT_FORGOTTEN" in (record, *others):
        return "NOT_FORGOTTEN"
    unexamined = any(gate.name in RECORD_TIERS and not gate.passed and gate.blocks == "NOT_TESTABLE" for gate in gates)
    return "INCONCLUSIVE" if record == "NOT_TESTABLE" and unexamined and "INCONCLUSIVE" in others else record
