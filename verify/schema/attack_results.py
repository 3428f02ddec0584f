"""Results of attacks and of ways of asking, the utility of the models, and what was not run."""

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from verify.io.documents import Frozen
from verify.schema.parts import Share, Value


class RateAtFPR(Frozen):
    """True-positive rate at a fixed false-positive rate."""

    fpr: Share
    tpr: Value


class AttackResult(Frozen):
    """Result of one attack against one model.

    Attributes:
        attack: its name, as on the command line.
        family: "membership" or "extraction".
        model: label of the attacked model.
        unit: unit of the scores.
        mean: mean score over the forget set, with a t interval over records.
        holdout_mean: the same over the never-trained controls, if any.
        auc: area under the ROC curve of forget set against controls, if any.
        tpr: true-positive rates at fixed false-positive rates that the number of controls can resolve.
        tpr_reversed: the same with the sign of the scores reversed, which finds records that were pushed too far (membership only).
            Whoever reads the better of the two looks twice: at confidence c both have intervals at (1 + c) / 2. Empty in
            verdicts by rule 1, whose rates have intervals at c. The AUC reversed is 1 - AUC; its interval has two sides.
    """

    attack: str
    family: Literal["membership", "extraction"]
    model: str
    unit: str
    mean: Value
    holdout_mean: Value | None = None
    auc: Value | None = None
    tpr: tuple[RateAtFPR, ...] = ()
    tpr_reversed: tuple[RateAtFPR, ...] = ()

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was not read: evidence of earlier versions is written as it was."""
        content: dict[str, Any] = handler(self)
        return content if self.tpr_reversed else {name: value for name, value in content.items() if name != "tpr_reversed"}


class NotRun(Frozen):
    """An attack that was requested but could not be run, and why."""

    attack: str
    reason: str


class ChannelNotRun(Frozen):
    """A way of asking that was wanted but could not be measured, and why.

    Attributes:
        channel: its name, or that of a group of channels.
        reason: one plain sentence.
        model: label of the model on which it failed; None where it was asked of none.
    """

    channel: str
    reason: str
    model: str | None = None

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a model that was not asked: evidence of earlier versions is written as it was."""
        content: dict[str, Any] = handler(self)
        return content if self.model is not None else {name: value for name, value in content.items() if name != "model"}


class Utility(Frozen):
    """Retain-set utility of a model: geometric-mean probability of a scored token, exp(-loss).

    Attributes:
        model: label.
        retain: over the retain records that were scored.
        holdout: over never-trained records, if any.
        ratio: retain utility over that of the yardstick (mean of the references, else the original).
    """

    model: str
    retain: Value
    holdout: Value | None = None
    ratio: Value
