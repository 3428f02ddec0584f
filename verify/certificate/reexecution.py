"""Auditor's statement on a re-execution: what its proof claims, and whether the parts of either contradict each other.

A proof names training records that are nearly a forget record by keyed hashes; these are data about persons, and only their number
is signed. The proof itself is bound by its digest. Nothing here needs torch.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from verify.certificate.signing import REEXECUTION, STATEMENT_TYPE, Statement
from verify.errors import InputError
from verify.io.documents import Frozen, invalid_field
from verify.provenance.segment_sampling import detection_probability, drawn_segments
from verify.schema.parts import Digest
from verify.schema.reexecution import (
    LEFT_OUT,
    PASSING,
    Draw,
    Finding,
    Kind,
    Noise,
    Reexecution,
    ReexecutionWord,
    Segment,
    phrase_of,
    word_of,
)
from verify.schema.tolerance import NOISE_FACTOR

LISTS = ("near", "executed")
"""Fields of a proof of which only the number of entries is signed."""

MOST_SEGMENTS = 100_000
"""More segments than trainings have, as each ends with the digests of a state. A draw among more is not repeated."""

LARGEST_PROOF = 64 << 20
"""Size limit in bytes: a segment takes some 400."""


class ReexecutionClaim(Frozen):
    """Predicate of an auditor's statement on a re-execution; the subject is the digest of the model's weights.

    Attributes:
        proof: SHA-256 of the proof's file.
        audit: SHA-256 of the evidence.json that the auditor signed beside it; None without an audit.
        near, executed: numbers of entries of the proof's lists.
        created, word, kind, base, tokenizer, root, committed, requested, forget, forget_digest, records, near_accepted, unchanged,
            committed_steps, segments, draw, findings, tokens, training_tokens, environment, trained_with, noise: as in the proof
            (`verify.schema.reexecution.Reexecution`).
    """

    proof: Digest
    audit: Digest | None
    created: str
    word: ReexecutionWord
    kind: Kind
    base: Digest
    tokenizer: Digest
    root: Digest | None
    committed: str | None
    requested: str | None = None
    forget: int = Field(ge=1)
    forget_digest: Digest
    records: int = Field(ge=1)
    near: int = Field(ge=0)
    near_accepted: bool
    unchanged: int = Field(ge=0)
    committed_steps: int = Field(default=0, ge=0)
    segments: int = Field(ge=0)
    executed: int = Field(ge=0)
    draw: Draw
    findings: tuple[Finding, ...]
    tokens: int = Field(ge=0)
    training_tokens: int = Field(ge=0)
    environment: dict[str, str]
    trained_with: dict[str, str] = Field(default_factory=dict)
    noise: Noise | None = None

    @classmethod
    def of(cls, proof: Reexecution, digest: str, audit: str | None = None) -> Self:
        """Summarise a proof.

        Args:
            proof: the proof.
            digest: SHA-256 of its file.
            audit: SHA-256 of the evidence.json that is signed beside it, if any.
        """
        facts: dict[str, Any] = {name: getattr(proof, name) for name in cls.model_fields if name not in ("proof", "audit")}
        return cls(proof=digest, audit=audit, **facts | {name: len(facts[name]) for name in LISTS})

    @property
    def phrase(self) -> str:
        """The outcome as printed: REBUILT_WITHOUT(m of M), WITHIN_NOISE(m of M), or the word alone."""
        return phrase_of(self.word, self.executed, self.segments)

    @property
    def as_committed(self) -> str:
        """What was taken from the commitment and not executed, as part of a sentence; empty where everything was executed."""
        if not self.unchanged:
            return ""
        steps = f" (steps 1 to {self.committed_steps})" if self.committed_steps else ""
        what = "stages" if self.kind == "shards" else "states"
        date = f" of {self.committed[:10]}" if self.committed else ""
        return f"{self.unchanged} {what}{steps} are taken from the commitment{date}, and were not executed again"

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what does not apply: statements of earlier versions are written as they were read."""
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if name not in (*LEFT_OUT, "noise") or value}


def reexecution_statement(proof: str | Path, audit: str | None = None) -> Statement:
    """Make the auditor's statement on a re-execution, of whatever outcome.

    Args:
        proof: the file that `verify-unlearning reexecute` wrote.
        audit: SHA-256 of the evidence.json of an audit of the same weights that is signed beside it; None without one.

    Raises:
        InputError: the file is not a proof, or one whose parts contradict each other.
    """
    found, digest = read_proof(proof)
    if wrong := next(contradictions(found), None):
        raise InputError(f"{proof} is not signed: {wrong}. Run `verify-unlearning reexecute` again.")
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "weights after deletion", "digest": {"sha256": found.model}}],
        "predicateType": REEXECUTION,
        "predicate": ReexecutionClaim.of(found, digest, audit).model_dump(mode="json"),
    }


def read_proof(path: str | Path) -> tuple[Reexecution, str]:
    """Read a proof and the SHA-256 of its file.

    Raises:
        InputError: the file is not a proof of a re-execution, or too large for one.
    """
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(LARGEST_PROOF + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Give the file that `reexecute` wrote.") from None
    if len(content) > LARGEST_PROOF:
        raise InputError(f"{path} has more than {LARGEST_PROOF} bytes; a proof is far smaller. Give the right file.")
    return Reexecution.parse(content, str(path)), hashlib.sha256(content).hexdigest()


def claim_of(statement: Statement) -> ReexecutionClaim:
    """Parse the predicate of a statement on a re-execution.

    Raises:
        InputError: it lacks fields that this version expects.
    """
    try:
        # Through JSON: the schema is strict, and only there accepts lists for tuples.
        return ReexecutionClaim.model_validate_json(json.dumps(statement["predicate"]))
    except ValidationError as error:
        place, reason = invalid_field(error, ReexecutionClaim)
        raise InputError(
            f"the statement on a re-execution is not valid: {place or 'an entry'}: {reason}. Ask for a new certificate."
        ) from None


def contradictions(proof: Reexecution) -> Iterator[str]:
    """Yield what in a proof contradicts its outcome: counts, draw, order of the segments, and the state that they end on."""
    claim = ReexecutionClaim.of(proof, "0" * 64)
    yield from claim_contradictions(claim)
    if claim.segments > MOST_SEGMENTS:
        return
    if proof.tokens != sum(one.tokens for one in proof.executed):
        yield f"its segments have {sum(one.tokens for one in proof.executed)} tokens, not {proof.tokens}"
    if proof.word != "NOT_REBUILT" and any(one.reading == "different" for one in proof.executed):
        yield f"a segment ended on another state, and the word is {proof.word}"
    if proof.word == "REBUILT_WITHOUT" and not all(one.equal for one in proof.executed):
        yield "a segment ended on other bits, and the word is REBUILT_WITHOUT"
    indices = [one.index for one in proof.executed]
    if proof.word in PASSING:
        if None in indices:
            yield "its segments bear no numbers, as in proofs of earlier versions, so that the draw cannot be repeated"
        elif indices != (drawn := _drawn(claim, proof.model)):
            other = next((index for index in indices if index not in drawn), None)
            which = "their order is not that of their numbers" if other is None else f"segment {other} was not drawn"
            yield f"its segments are not those that nonce and root draw: {which}"
        yield from _gaps(proof)


def claim_contradictions(claim: ReexecutionClaim) -> Iterator[str]:
    """Yield what in a claim contradicts itself: word and findings, counts, and what the sample is said to find."""
    if claim.word != word_of(claim.findings):
        yield f"the word is {claim.word}, its findings give {word_of(claim.findings)}"
    if claim.executed > claim.segments:
        yield f"{claim.executed} segments were executed, and there are only {claim.segments}"
    if claim.segments > MOST_SEGMENTS:
        yield f"it names {claim.segments} segments; at most {MOST_SEGMENTS} are checked"
    elif claim.word in PASSING and claim.executed <= claim.segments:
        yield from _sample(claim)
    yield from _measured(claim)


def _measured(claim: ReexecutionClaim) -> Iterator[str]:
    """Yield where distances are stated of another outcome than WITHIN_NOISE, are missing, or do not support it."""
    noise = claim.noise
    if (noise is None) != (claim.word != "WITHIN_NOISE"):
        yield f"the word is {claim.word}, and it states {'no distances' if noise is None else 'distances'} from the recorded states"
    elif noise is not None:
        if noise.apart > claim.executed:
            yield f"{noise.apart} segments ended on other bits, and only {claim.executed} were executed"
        if noise.farthest > NOISE_FACTOR or noise.least <= 2 * NOISE_FACTOR or noise.hidden >= 1:
            yield (
                f"distances of {noise.farthest:.2g} times the noise, an effect of {noise.least:.2g} times and a tolerance that "
                f"hides {noise.hidden:.2g} do not give WITHIN_NOISE"
            )


def _sample(claim: ReexecutionClaim) -> Iterator[str]:
    """Recompute what a sample finds; the planned size of a failed re-execution is not known."""
    draw, count, executed = claim.draw, claim.segments, claim.executed
    if not executed:
        yield "no segment was executed"
        return
    if (draw.nonce is None) != (executed == count):
        yield (
            "all segments were executed, and a nonce is named"
            if draw.nonce
            else "a part of the segments was executed without a nonce"
        )
    held = None if draw.forget_segments is None else max(0, min(draw.forget_segments, count))
    expected = None if held is None else detection_probability(count, held, executed)
    if (expected is None) != (draw.found is None) or not math.isclose(expected or 0, draw.found or 0, abs_tol=1e-9):
        yield f"the sample is said to find a false segment with {draw.found}; {executed} of {count} give {expected}"
    for level, fewest in ((0.95, draw.false_found_95), (0.99, draw.false_found_99)):
        if fewest is None or not _is_fewest(count, executed, fewest, level):
            yield f"{fewest} false segments are said to be found with {level:.0%}, which {executed} of {count} do not give"


def _is_fewest(count: int, executed: int, fewest: int, level: float) -> bool:
    """Return whether a number of false segments is the smallest that a sample finds with a probability."""
    if not 1 <= fewest <= count:
        return False
    return detection_probability(count, fewest, executed) >= level > detection_probability(count, fewest - 1, executed)


def _drawn(claim: ReexecutionClaim, model: str) -> list[int]:
    """Draw the segments again; without an earlier log the model's weights take the place of its root."""
    if claim.draw.nonce is None:
        return list(range(claim.segments))
    return list(drawn_segments(claim.segments, claim.executed, claim.draw.nonce, claim.root or model))


def _gaps(proof: Reexecution) -> Iterator[str]:
    """Yield where segments that follow each other do not meet, and where the last one does not end on the model."""
    places: dict[str, list[Segment]] = defaultdict(list)
    for one in proof.executed:
        places[one.place].append(one)
        if (one.equal and one.expected != one.found) or not one.ran_from <= one.start < one.end:
            yield f"the segment from step {one.start} to {one.end} of {one.place} contradicts itself"
    for place, found in places.items():
        for one, other in pairwise(found):
            adjacent = one.index is not None and one.index + 1 == other.index
            if other.start < one.end or (adjacent and other.start != one.end):
                yield f"the segments of {place} that end at steps {one.end} and {other.end} do not follow each other"
    last = proof.executed[-1] if proof.executed and proof.kind != "shards" else None
    if last is not None and last.index == proof.segments - 1 and last.expected != proof.model:
        yield f"its last segment ends on the weights {last.expected[:16]}, not on those of the model, {proof.model[:16]}"
