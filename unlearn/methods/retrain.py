"""Retraining from the base model without the forget set: what all other methods approximate."""

from dataclasses import dataclass
from typing import ClassVar

from unlearn.defenses.base import TrainingTask
from unlearn.finetuning import described, recipe_of, train_with_log
from unlearn.training.lora import in_form_of
from unlearn.training.method import Context, Cost, Outcome, Rebuild
from verify.data.records import Fields
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class Retrain(Rebuild):
    """Fine-tune the base model again on the retain set alone.

        theta = A(theta_base, D_r)

    A is the fine-tuning that made the model: its options are those of its training log (or, after an approximate method, those in
    the manifest), and flags that differ from their defaults override them. The result has a training log of its own, so that the
    next deletion can be exact as well. A model trained with differential privacy is trained with it again, with fresh noise; for a
    federation, the retraining is `client_retrain`. Another base than log or manifest name is refused; where they name
    none, the result is not called exact.
    Cao and Yang 2015 (Towards making systems forget); Bourtoule et al. 2021 (arXiv 1912.03817), definition III.1.

    Do not use it where it is too expensive: it costs a whole fine-tuning. Everything cheaper is judged against it.
    """

    idea: ClassVar[str] = "fine-tune the base model again without the forget set"
    paper: ClassVar[str] = "Bourtoule et al. 2021 (arXiv 1912.03817), definition III.1"
    cost: ClassVar[Cost] = "a retraining"
    exactness: ClassVar[str] = (
        "The fine-tuning never saw the forget records. A record that the base model was pre-trained on stays in the base model."
    )

    def rebuild(self, context: Context) -> Outcome:
        """Train the base on the retain set."""
        assert context.base is not None, "the caller checks needs_base"
        task = TrainingTask(
            context.base, context.retain, context.options, context.output_dir, context.work_dir, context.retain, Fields()
        )
        recipe = recipe_of(context.model_dir)
        defense = None if recipe is None else recipe.trained_under()
        done = train_with_log(task, defense)
        trained, facts = done.trained, {} if defense is None else {"defense": described(defense, done)}
        return Outcome(
            in_form_of(context.loaded.model, trained.model, context.options.seed),
            trained.result,
            facts,
        )
