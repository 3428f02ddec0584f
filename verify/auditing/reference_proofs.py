"""Proofs of references: a training that was executed again without the forget records, which no log alone can show.

A reference that saw the records makes any model look as if it had forgotten them, and its log is only its writer's word.
`verify-unlearning reexecute` takes a reference's training as one of its own (no --log): its schedule follows from options and seed.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.certificate.reexecution import contradictions, read_proof
from verify.data.identity import set_digest
from verify.errors import InputError
from verify.io.files import MANIFEST, read_json
from verify.schema.inputs import ReferenceCheck, ReferenceExecution
from verify.schema.reexecution import PASSING


@dataclass(frozen=True)
class ReferenceProof:
    """Proof of a reference's training.

    Attributes:
        path: its file.
        weights: digest of the reference's weights.
        execution: the outcome.
    """

    path: str
    weights: str
    execution: ReferenceExecution


def read_reference_proofs(
    paths: Sequence[str | Path], references: Sequence[Any], forget: Collection[str], bases: Collection[str] = ()
) -> tuple[ReferenceProof, ...]:
    """Read proofs, and check that each is about the whole training of a model without this audit's forget records.

    Args:
        paths: files that `verify-unlearning reexecute` wrote about references.
        references: the models, as passed to the audit.
        forget: keyed hashes of the forget records.
        bases: digests of the weights that a reference may start from, as `known_bases` returns; none is refused where it is empty.

    Raises:
        InputError: a file is not a proof, is about something else, or its outcome is not that of a training from the original's
            base without these records.
    """
    known = [_stated_weights(source) for source in references]
    proofs = tuple(_read(path, forget, bases) for path in paths)
    for proof in proofs:
        if proof.weights not in known and None not in known:
            raise InputError(_of_no_reference(proof))
    return proofs


def with_executions(
    checks: Sequence[ReferenceCheck], proofs: Sequence[ReferenceProof], weights: Mapping[str, str]
) -> tuple[ReferenceCheck, ...]:
    """Add the outcomes of re-executions to what the references' logs showed.

    Args:
        checks: one for each reference.
        proofs: as `read_reference_proofs` returns.
        weights: label of each reference -> digest of the weights that were scored.

    Raises:
        InputError: a proof is about none of the references.
    """
    for proof in proofs:
        if proof.weights not in weights.values():
            raise InputError(_of_no_reference(proof))
    found = {proof.weights: proof.execution for proof in proofs}
    return tuple(check.model_copy(update={"execution": found.get(weights[check.label])}) for check in checks)


def _read(path: str | Path, forget: Collection[str], bases: Collection[str]) -> ReferenceProof:
    proof, digest = read_proof(path)
    if wrong := next(contradictions(proof), None):
        raise InputError(f"{path} proves nothing: {wrong}. Run `verify-unlearning reexecute` again.")
    if proof.word not in PASSING:
        raise InputError(
            f"{path} says {proof.word} of a reference's training: {proof.claim} Use references whose training is the one they "
            "state, or leave this one out."
        )
    if proof.kind != "own schedule":
        raise InputError(
            f"{path} is about a deletion, and a reference is a training of its own. Make it by `verify-unlearning reexecute "
            "--model REFERENCE` without --log."
        )
    if proof.forget_digest != set_digest(forget):
        raise InputError(
            f"{path} is about other forget records ({proof.forget}) than this audit's ({len(forget)}). Make it with the same "
            "--forget."
        )
    if bases and proof.base not in bases:
        raise InputError(
            f"{path} is about a training from the weights {proof.base[:16]}, and the original's log names the base "
            f"{' or '.join(sorted(base[:16] for base in bases))}. Use references that were trained from the original's base, leave "
            "this proof out, or accept another base with --accept-reference-differences base (Python: accept={'base'})."
        )
    execution = ReferenceExecution(phrase=proof.phrase, proof=digest, segments=proof.segments, executed=len(proof.executed))
    return ReferenceProof(str(path), proof.model, execution)


def _stated_weights(source: Any) -> str | None:
    """Return the digest of a model's weights by its manifest; None where there is none."""
    path = Path(source) / MANIFEST if isinstance(source, str | Path) else None
    if path is None or not path.is_file():
        return None
    about = read_json(path).get("about", {})
    return str(about["weights"]) if "weights" in about else None


def _of_no_reference(proof: ReferenceProof) -> str:
    return (
        f"{proof.path} is about a model with the weights {proof.weights[:16]}, which none of the references has. Give the proof of "
        "a reference, or leave it out."
    )
