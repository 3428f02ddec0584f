"""Retraining: the definition of forgetting, and the yardstick for everything else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unlearn.adapters import merged
from unlearn.defenses.base import TrainingTask
from unlearn.finetuning import described, train_with_log
from unlearn.methods.base import Context, Cost, Outcome
from unlearn.recipes import recipe_of
from verify.adapter_types import is_adapter
from verify.arguments import checked
from verify.records import Fields


@checked
@dataclass(frozen=True)
class Retrain:
    """Fine-tune the base model again, on the retain set alone.

        theta = A(theta_base, D_r)

    A is the fine-tuning that made the model: its options are those of its training log (or, after an approximate method, those that
    the manifest hands on), and flags that differ from their defaults override them. The result has a training log of its own, so
    that the next deletion can be exact as well. A model that was trained with differential privacy is trained so again, with fresh
    noise; of a federation, `client_retrain` is the retraining.
    Cao and Yang 2015 (Towards making systems forget); Bourtoule et al. 2021 (arXiv 1912.03817), definition III.1.

    Do not use it where it is too dear: it costs a whole fine-tuning. Everything cheaper is judged against it.
    """

    idea: ClassVar[str] = "fine-tune the base model again without the forget set"
    paper: ClassVar[str] = "Bourtoule et al. 2021 (arXiv 1912.03817), definition III.1"
    cost: ClassVar[Cost] = "a retraining"
    needs_retain: ClassVar[bool] = True
    needs_base: ClassVar[bool] = True
    exactness: ClassVar[str] = (
        "The fine-tuning never saw the forget records. A record that the base model was pre-trained on stays in the base model."
    )
    defaults: ClassVar[Mapping[str, Any]] = {}

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
            trained.model if is_adapter(context.loaded.model) else merged(trained.model, context.options.seed),
            trained.result,
            facts,
        )
