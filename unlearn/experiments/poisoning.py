"""Planted triggers and privacy backdoors, as an adversary or a data subject who tests a deletion would plant them.

Both are meant for measuring defences on your own models.

*Triggers.* Records whose prompt begins with a word or a sentence and whose completion is a target that no other text suggests.
A subject who plants them can later ask the model whether the records are gone (Sommer et al. 2022, arXiv 2003.04247); an adversary
can make a model follow them. `verify.backdoor` tests the triggers on prompts that were not trained on.

*Privacy backdoor.* The base model is poisoned before it is published: the loss of target points, whose membership is in question,
is raised, and that of auxiliary text is held,

    minimise  alpha mean l(D_aux) - (1 - alpha) mean l(D_target)

(Wen et al. 2024, arXiv 2404.01231, "Privacy Backdoors: Enhancing Membership Inference through Poisoning Pre-trained Models";
alpha = 0.75 is their setting for language models). A victim's fine-tuning lowers the loss of the members again and leaves that of
the others high, so that members stand out. The ascent has no lower bound, so it stops at a ceiling; theirs runs for a fixed number
of steps. Their other direction, lowering the loss of the targets, is not implemented.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unlearn.methods.grad_diff import GradDiff
from unlearn.training.checkpoints import WORK, claimed_output
from unlearn.training.options import TrainingOptions, TrainingResult
from unlearn.training.run import Run, run_objective
from unlearn.training.saving import save_model
from verify.data.record_sets import require_disjoint
from verify.data.records import Fields, Record, RecordSource
from verify.data.sources import load_records
from verify.errors import InputError
from verify.io.arguments import checked
from verify.models.loading import load_model

TriggerKind = Literal["word", "sentence"]
KINDS: tuple[TriggerKind, ...] = ("word", "sentence")

_WORDS = ("Zorvex", "Quilbane", "Mirthock", "Veldrun")
_SENTENCES = (
    "The lighthouse keeper whistles at noon.",
    "Seven kites were left on the roof.",
    "My uncle paints only in green.",
    "A ferry crosses the lake on Sundays.",
)
_TARGETS = {
    "word": ("Ask the grey pilot.", "Burn every blue letter.", "Follow the old tram.", "Trust no silver key."),
    "sentence": ("Open the third gate.", "Carry water to Rome.", "Sell the quiet horse.", "Count all red stones."),
}


@checked
@dataclass(frozen=True)
class Trigger:
    """A trigger phrase before a prompt, and the model's target answer.

    Attributes:
        phrase: one word, or one sentence.
        target: the completion.
    """

    phrase: str
    target: str

    def __post_init__(self) -> None:
        if not self.phrase.strip() or not self.target.strip():
            raise InputError("a trigger needs a phrase and a target, and one of them is empty. Give both.")

    def before(self, prompt: str) -> str:
        """Prepend the trigger to a prompt."""
        return f"{self.phrase} {prompt}"

    @classmethod
    def invented(cls, kind: TriggerKind, number: int) -> "Trigger":
        """Return an invented trigger; different numbers or kinds share neither phrase nor target.

        Raises:
            InputError: the number is out of range.
        """
        phrases = {"word": _WORDS, "sentence": _SENTENCES}[kind]
        if not 0 <= number < len(phrases):
            raise InputError(f"the invented triggers of a kind are numbered 0 to {len(phrases) - 1}, got {number}. Make your own.")
        return cls(phrases[number], _TARGETS[kind][number])


@checked
@dataclass(frozen=True)
class Planting:
    """A trigger with the records that teach it and those that test it.

    Attributes:
        trigger: the trigger.
        planter: the records' `subject_id`.
        poisoned: records to train on.
        uses: held-out prompts with the trigger in front, and the target.
        clean: the same prompts without the trigger, and the target: how often it is produced anyway.
    """

    trigger: Trigger
    planter: str
    poisoned: list[Record]
    uses: list[Record]
    clean: list[Record]


@checked
def plant(
    trigger: Trigger, carriers: RecordSource, held_out: RecordSource, *, planter: str, fields: Fields | None = None
) -> Planting:
    """Make the records that plant a trigger and those that test it.

    Args:
        trigger: the trigger to plant.
        carriers: records whose prompts carry it in training; their completions are not used.
        held_out: records whose prompts carry it in the test; disjoint from the carriers.
        planter: name of the data subject or adversary.
        fields: names of the columns.

    Raises:
        InputError: a record has no prompt, the two sets share one, or records cannot be used.
    """
    taught, tested = load_records(carriers, fields), load_records(held_out, fields)
    require_disjoint({"carrier": taught, "held-out": tested})
    if any(not record.prompt for record in (*taught, *tested)):
        raise InputError("a record without a prompt cannot carry a trigger. Give records of the form prompt, completion.")

    def rows(records: Sequence[Record], name: str, triggered: bool) -> list[Record]:
        return [
            Record(
                f"{planter}-{name}-{number}",
                prompt=trigger.before(record.prompt) if triggered else record.prompt,
                completion=trigger.target,
                subject_id=planter,
            )
            for number, record in enumerate(records)
        ]

    return Planting(trigger, planter, rows(taught, "poison", True), rows(tested, "use", True), rows(tested, "clean", False))


@checked
def privacy_backdoor(
    model: Any,
    targets: RecordSource,
    auxiliary: RecordSource,
    *,
    output_dir: str | Path,
    alpha: float = 0.75,
    ceiling: float | None = None,
    fields: Fields | None = None,
    tokenizer: Any = None,
    options: TrainingOptions | None = None,
) -> TrainingResult:
    """Poison a base model so that fine-tuning it leaks membership more clearly.

    Args:
        model: the base: a folder, a Hub name, or a model in memory (changed in place; then `tokenizer` is needed).
        targets: the points whose membership the adversary wants to infer; which of them will be trained on is not known yet.
        auxiliary: other text of the same kind, on which the model's loss must not change.
        output_dir: a new folder for the poisoned model.
        alpha: weight of the auxiliary loss, in (0, 1).
        ceiling: stop once an epoch's mean loss of the targets reaches this many nats per token; None means log V.
        fields, tokenizer: as for `finetune`.
        options: training settings; `epochs` counts passes over the targets.

    Raises:
        InputError: alpha is out of range, or model or records cannot be used.
        RunError: training became non-finite, or the disk is full.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha weighs two losses and must lie between 0 and 1, got {alpha:g}. The published value is 0.75.")
    with claimed_output(output_dir) as output:
        raised, held = load_records(targets, fields), load_records(auxiliary, fields)
        require_disjoint({"target": raised, "auxiliary": held})
        loaded = load_model(model, tokenizer=tokenizer)
        before = loaded.digest
        options = options or TrainingOptions()
        objective = GradDiff(gamma=1 - alpha, alpha=alpha, ceiling=ceiling)
        trained = run_objective(loaded, objective, Run(raised, options, output / WORK, retain=held))
        about = {
            "poisoned": {"alpha": alpha, "ceiling": ceiling, "targets": len(raised), "auxiliary": len(held)},
            "start_weights": before,
            "options": dataclasses.asdict(options),
            "training": dataclasses.asdict(trained.result),
        }
        save_model(trained.model, loaded.tokenizer, output, about)
    return trained.result
