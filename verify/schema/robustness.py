"""Schema of a robustness probe's result; reading one needs no torch."""

from typing import Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from verify.errors import InputError
from verify.io.documents import Document, Frozen
from verify.schema.attack_results import NotRun
from verify.schema.evidence import Evidence
from verify.schema.parts import Digest, Value


class Treated(Frozen):
    """Result of one treatment.

    Attributes:
        probe, treatment: the probe's name, and the treatment with its strength.
        original, target, references: mean loss on the forget set under the treatment, nats per token.
        residual: residual fraction under the treatment, against references under the same treatment; None where the original
            knows no more than the references there, so that it is undefined.
        accused: whether a residual beyond the margin was found. records: number of records accused individually.
    """

    probe: str
    treatment: str
    original: float
    target: float
    references: float
    residual: Value | None
    accused: bool
    records: int


OTHER_RECORDS = "other records"
LATER_FIELDS = frozenset({"configuration", "other_recoveries", "not_run"})
"""Fields that results of earlier versions lack; they are written where they say something."""


class Recovery(Frozen):
    """Excess recovery over the references under relearning.

    Attributes:
        steps, excess: [s_u(k) - s_ref(k)] / [s_0 - s_ref(0)] after k steps; at 0 steps it is the residual fraction.
        area: mean excess over the steps beyond that at 0, by the trapezoid rule; 0 for a curve no steeper than a retraining's.
        arm: what was trained on: "other records" of the domain, "unrelated text", or "other subjects" of the forget set.
    """

    steps: tuple[int, ...]
    excess: tuple[float, ...]
    area: float
    arm: str = OTHER_RECORDS

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the arm that earlier versions had alone."""
        content: dict[str, Any] = handler(self)
        return content if self.arm != OTHER_RECORDS else {name: value for name, value in content.items() if name != "arm"}


class RetainHarm(Frozen):
    """Loss attack on the retained records: unlearning may expose others.

    Attributes:
        original, target: AUC of retain against holdout records. references: the same for each reference.
    """

    original: Value
    target: Value
    references: tuple[Value, ...]


class Robustness(Document):
    """Result of `verify-unlearning probe`.

    Attributes:
        weights: digest of the probed weights; an audit it is attached to must be of the same.
        configuration: digest of the configuration that decides what they compute; None in results of earlier versions.
        forget: number of forget records.
        forget_digest: digest over their keyed hashes, as `AuditedSet.digest`; an audit it is attached to must have the same.
        margin, alpha: margin and level of every treatment's test.
        treated: one row per treatment, the untreated models first.
        recovery: how fast the records are relearned from other records of the domain, where relearning was among the probes.
        other_recoveries: the same for the other arms of relearning.
        not_run: probes that could not treat every model alike, and why.
        retain: exposure of the retained records, where never-trained records were given.
    """

    called: ClassVar[str] = "result of `verify-unlearning probe` of this version (unlearn-verify/robustness/1)"
    remedy: ClassVar[str] = "Probe again."

    schema_: Literal["unlearn-verify/robustness/1"] = Field(default="unlearn-verify/robustness/1", alias="schema")
    weights: Digest
    forget: int = Field(ge=1)
    forget_digest: Digest
    margin: float
    alpha: float
    treated: tuple[Treated, ...]
    recovery: Recovery | None
    retain: RetainHarm | None
    configuration: Digest | None = None
    other_recoveries: tuple[Recovery, ...] = ()
    not_run: tuple[NotRun, ...] = ()

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write results of earlier versions as they were read."""
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if name not in LATER_FIELDS or value}

    def require_same(self, evidence: Evidence, name: str) -> None:
        """Raise InputError, naming this file, if the audit is about other weights, another configuration or other records."""
        target = next(model for model in evidence.models if model.role == "target")
        weights = target.weights
        if self.weights != weights:
            raise InputError(
                f"{name} was measured on weights {self.weights[:16]}, the audit on {weights[:16]}. "
                "Probe the model that was audited."
            )
        if None not in (self.configuration, target.configuration) and self.configuration != target.configuration:
            raise InputError(
                f"{name} was measured on the audited weights with another configuration ({str(self.configuration)[:16]}, in the "
                f"audit {str(target.configuration)[:16]}). Probe the folder that was audited."
            )
        if self.forget_digest != evidence.set("forget").digest:
            raise InputError(
                f"{name} was measured on other records than the audit's {evidence.set('forget').records}, or hashed with another "
                "record key. Probe with the forget set and the key of the audit."
            )

    def table(self) -> str:
        """Return the result as plain text, one line per treatment."""
        lines = [f"{'treatment':<34} {'original':>9} {'target':>9} {'references':>10}  residual fraction"]
        for row in self.treated:
            rho = (
                "not comparable"
                if row.residual is None
                else f"{row.residual.value:.2f} [{row.residual.low:.2f}, {row.residual.high:.2f}]"
            )
            found = f"  beyond the margin ({row.records} of {self.forget} records)" if row.accused else ""
            lines.append(f"{row.treatment:<34} {row.original:9.2f} {row.target:9.2f} {row.references:10.2f}  {rho}{found}")
        for one in (*(() if self.recovery is None else (self.recovery,)), *self.other_recoveries):
            curve = ", ".join(f"{step}: {excess:.2f}" for step, excess in zip(one.steps, one.excess, strict=True))
            lines.append(f"excess recovery after k steps of relearning from {one.arm}: {curve}; area {one.area:.3f}")
        if self.retain is not None:
            others = ", ".join(f"{value.value:.2f}" for value in self.retain.references)
            lines.append(
                f"loss attack on retained records, AUC: original {self.retain.original.value:.2f}, target "
                f"{_interval(self.retain.target)}, references {others}"
            )
        lines += [f"not run: {entry.attack}: {entry.reason}" for entry in self.not_run]
        return "\n".join(lines)


def _interval(value: Value) -> str:
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"
