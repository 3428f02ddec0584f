"""Checks of an audit's inputs before scoring: what the references were trained on, and what the unlearning method read."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from verify.auditing.reference_checks import KINDS, Expected, check_references, known_bases
from verify.auditing.reference_proofs import ReferenceProof, read_reference_proofs, with_executions
from verify.data.canaries import Canaries
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.errors import InputError
from verify.models.loading import load_tokenizer
from verify.provenance.descent import trained_records
from verify.provenance.holdout import check_holdout
from verify.provenance.training_history import history_of
from verify.schema.inputs import AcceptedDifference, AuditedModel, HoldoutCheck, ReferenceCheck
from verify.schema.parts import SetRole
from verify.scores.configurations import require_same_configuration, stored_entries

USED_HOLDOUT = "used_holdout"
"""Entry of `accept` by which the unlearning may have read the holdout set."""


@dataclass(frozen=True)
class CheckedInputs:
    """Results of the checks, as the evidence records them."""

    references: tuple[ReferenceCheck, ...]
    holdout: HoldoutCheck | None
    proofs: tuple[ReferenceProof, ...] = ()

    def with_executions(self, models: Sequence[AuditedModel]) -> "CheckedInputs":
        """Add the outcomes of re-executions to the references that they are about.

        Args:
            models: everything that was scored.

        Raises:
            InputError: a proof is about none of the references.
        """
        weights = {model.label: model.weights for model in models if model.role == "reference"}
        return replace(self, references=with_executions(self.references, self.proofs, weights))

    def with_same_weights(self, duplicates: Mapping[str, str]) -> "CheckedInputs":
        """Add references that turned out, once loaded, to have the weights of another model.

        Args:
            duplicates: label -> label of the other model; the auditor has accepted them.
        """
        listed = []
        for check in self.references:
            accepted = check.accepted
            if check.label in duplicates and not any(difference.kind == "weights" for difference in accepted):
                accepted += (AcceptedDifference(kind="weights", what=f"it has the very weights of {duplicates[check.label]}"),)
            listed.append(check.model_copy(update={"accepted": accepted}))
        return replace(self, references=tuple(listed))


def check_inputs(
    models: Mapping[str, Any],
    references: Sequence[Any],
    sets: Mapping[SetRole, Sequence[Record]],
    canaries: Canaries | None,
    key: RecordKey,
    tokenizer: Any,
    accept: Collection[str],
    proofs: Sequence[str | Path] = (),
) -> CheckedInputs:
    """Check, by logs and manifests, what the references were trained on and which holdout records the unlearning read.

    Args:
        models: "original", "target" and, if present, "base".
        references: the references.
        sets: the audit's records, with all retain records.
        canaries: the original's canaries, if any.
        key: the record key.
        tokenizer: for models in memory.
        accept: intended differences; see `verify.audit`.
        proofs: files of re-executions of references.

    Raises:
        InputError: a reference or the holdout set cannot be used, or `accept` names an unknown difference.
    """
    accept = {accept} if isinstance(accept, str) else accept
    unknown = sorted(set(accept) - {*KINDS, USED_HOLDOUT})
    if unknown:
        raise InputError(f"{unknown[0]!r} cannot be accepted. Use any of: {', '.join((*KINDS, USED_HOLDOUT))}.")
    expected = _expected(models["original"], references, sets, canaries, key, tokenizer)
    checked = check_references(references, models, expected, set(accept) - {USED_HOLDOUT})
    compared = {"target": models["target"], **_labelled(references)}
    require_same_configurations(models["original"], compared, accepted="configuration" in accept)
    _require_never_trained(models, sets, key)
    holdout = check_holdout(models["target"], sets["holdout"], key, USED_HOLDOUT in accept) if "holdout" in sets else None
    bases = frozenset[str]() if "base" in accept else known_bases(models["original"], expected.forget)
    return CheckedInputs(checked, holdout, read_reference_proofs(proofs, references, expected.forget, bases))


def _require_never_trained(models: Mapping[str, Any], sets: Mapping[SetRole, Sequence[Record]], key: RecordKey) -> None:
    """Require that nothing beside the original, the target or the base names a record that is said to be never-trained.

    That is a training log, the shards of a model in shards, or the list of an approximate method's result. Those of the references
    are compared by `check_references`.

    Raises:
        InputError: one does, or a log is damaged; the message names the model.
    """
    held_out = {role: records for role in ("holdout", "fresh") if (records := sets.get(role))}
    for model, source in models.items() if held_out else ():
        history = history_of(source)
        stages = () if history is None else history.stages
        seen = (trained_records(stage.folder) if stage.log is None else stage.log.names for stage in stages)
        names = frozenset[str]().union(*seen)
        for role, records in held_out.items():
            # Logs of older versions list a chat by its texts alone.
            known = [not names.isdisjoint(map(key.of, (record.fingerprint, record.text_fingerprint))) for record in records]
            if any(known):
                raise InputError(
                    f"the {model} was trained on {sum(known)} of the {len(known)} {role} records, by its training log or the list "
                    "of its records: what a model knows of them is no measure of what it would know without training. Give "
                    "records that no model was trained on."
                )


def _expected(
    original: Any,
    references: Sequence[Any],
    sets: Mapping[SetRole, Sequence[Record]],
    canaries: Canaries | None,
    key: RecordKey,
    tokenizer: Any,
) -> Expected:
    """Return what the references are compared with."""
    names = {role: frozenset(key.of(record.fingerprint) for record in records) for role, records in sets.items()}
    # A given retain set defines what references must be trained on, and it contains no canaries.
    needed = bool(references) and "retain" not in names
    return Expected(
        forget=names["forget"],
        retain=names.get("retain"),
        holdout=names.get("holdout", frozenset()),
        canaries=_canary_names(canaries, original, key, tokenizer) if needed else frozenset(),
        key=key,
    )


def _labelled(references: Sequence[Any]) -> dict[str, Any]:
    return {f"reference {number}": one for number, one in enumerate(references, 1)}


def require_fitting_references(
    original: Any,
    references: Sequence[Any],
    sets: Mapping[SetRole, Sequence[Record]],
    canaries: Canaries | None,
    key: RecordKey,
    accept: Collection[str],
) -> None:
    """Check references as an audit does, by logs and configurations, before there is a model to audit.

    Args:
        original: the model before unlearning.
        references: the references.
        sets: the audit's records, with all retain records.
        canaries: the original's canaries, if any.
        key: the record key.
        accept: intended differences.

    Raises:
        InputError: a reference is not a retraining of the original without the forget set.
    """
    expected = _expected(original, references, sets, canaries, key, None)
    check_references(references, {"original": original}, expected, set(accept) - {USED_HOLDOUT})
    require_same_configurations(original, _labelled(references), accepted="configuration" in accept)


def require_same_configurations(original: Any, others: Mapping[str, Any], *, accepted: bool) -> None:
    """Refuse models in local folders whose configuration differs from the original's, before anything is scored.

    Others are compared when they are loaded.

    Args:
        original: the model before unlearning.
        others: the models that are compared with it, by label.
        accepted: whether a difference is intended.

    Raises:
        InputError: a configuration differs, and that was not accepted.
    """
    folders = {label: Path(one) for label, one in others.items() if isinstance(one, str | Path) and Path(one).is_dir()}
    if accepted or not folders or not isinstance(original, str | Path) or not Path(original).is_dir():
        return
    expected = stored_entries(original)
    for label, folder in folders.items():
        own = stored_entries(folder)
        if own is not None and expected is not None:
            require_same_configuration(label, folder.name, own, expected, accepted=False)


def _canary_names(canaries: Canaries | None, original: Any, key: RecordKey, tokenizer: Any) -> frozenset[str]:
    """Return keyed hashes of the canaries that the original was trained on; their texts depend on its tokenizer."""
    if canaries is None:
        return frozenset()
    own = tokenizer if tokenizer is not None else load_tokenizer(original)
    return frozenset(key.of(record.fingerprint) for record in canaries.trained_records(own))
