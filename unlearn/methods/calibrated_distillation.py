"""Calibrated distillation: bring records in many contexts, at the output and inside, to what the calibrated base model predicts."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from unlearn.level.contexts import CONTEXTS, draw_views
from unlearn.level.distillation import ToReadings
from unlearn.level.estimate import base_of, claim_estimate, encoded, learning_rate_for
from unlearn.level.facts import outcome_near_level
from unlearn.level.negation import start_weights
from unlearn.level.readings import layers_at, levels_of_views
from unlearn.training.method import Context, Cost, Outcome, WeightEdit
from unlearn.training.options import TrainingOptions
from unlearn.training.run import Run, run_objective
from verify.errors import InputError
from verify.io.arguments import checked
from verify.models.adapter_types import is_adapter

RATE = 1 / 4
"""Default learning rate, as a share of the one that the model was fine-tuned with."""


@checked
@dataclass(frozen=True)
class CalibratedDistillation(WeightEdit):
    """Distil the base model's predictions on the forget set, calibrated on never-trained records, over many contexts and layers.

        start     theta = theta_base + back (theta_0 - theta_base) - negation (task vector of the forget set)
        minimise  sum_d w_d [ mean_t h(l_td - l*_td) + 5 e_d^2 + mu_cd e_d ]  on D_f in context c
                  +  alpha KL(p_0 || p)  on D_r  +  weight penalty

    `level` aims at the loss on the exact texts alone, and audits that ask in other ways still find the records. Here every record
    is trained on in its exact text and in contexts made from it by rules: no prompt, a cut or shuffled one, its names alone, a
    sentence in front, the answer cut or shuffled. Its log-probabilities l_td are brought to their never-trained level l*_td at the
    output and, by the logit lens, at some layers. The level is what the base model predicts there, calibrated on the holdout set in
    the same context (`unlearn.level.readings`). The steps start where less of the records is left (`unlearn.level.negation`), and
    the weight penalty leads back to what the retain set needs.

    This project, 2026 (docs/research/level.md). Relatives: a task vector is negated (Ilharco et al. 2023, arXiv 2212.04089);
    distillation after a change of the weights is what makes unlearning robust in UNDO (Lee et al. 2025, arXiv 2506.06278), which
    takes 60 to 80 % of a retraining; logit lens on unlearned models: Patil et al. 2023 (arXiv 2309.17410).

    Do not use it without a holdout set that resembles the forget set, nor where it must be certain: no audit by channels has
    certified it. A model that is an adapter stays one; `--lora` on whole weights is refused, since the start moves all of them and
    a new adapter does not lead back (docs/research/level.md has what it left). The rules for prompts expect words between spaces
    and, for "names", capitals. Retrain where it counts.

    Attributes:
        views: views of each record; half are its exact text. The passes (`--epochs`) are divided among them.
        depths: depths of the layers that are read beside the output, from 0 to 1.
        back: where the steps start, from 0 (the base) to 1 (the model before unlearning).
        negation: multiple of the task vector that is subtracted from the start; 0 takes none.
        lens_weight: weight of a layer's distance, where the output's is 1.
        alpha: weight of the retain term.
        dual_step: step size of the multipliers; 0 turns them off.
        anchor_weight: weight of the penalty on moving away from the weights before unlearning.
    """

    views: int = 14
    depths: tuple[float, ...] = (0.25, 0.5, 0.75)
    back: float = 0.9
    negation: float = 1.5
    lens_weight: float = 0.5
    alpha: float = 40.0
    dual_step: float = 4.0
    anchor_weight: float = 2000.0

    idea: ClassVar[str] = "distil the calibrated base model's predictions on the records, in many contexts and layers"
    paper: ClassVar[str] = (
        "this project, 2026 (docs/research/level.md); compare Lee et al. 2025 (arXiv 2506.06278); "
        "compare Ilharco et al. 2023 (arXiv 2212.04089)"
    )
    cost: ClassVar[Cost] = "a share of a retraining"
    defaults: ClassVar[Mapping[str, Any]] = {"epochs": 28.0, "batch_size": 8}
    trains_in_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.views < 1:
            raise InputError(f"--views must be at least 1, got {self.views}.")
        if not all(0 <= depth <= 1 for depth in self.depths):
            raise InputError(f"--depths must lie between 0, the first layer, and 1, the last; got {self.depths}.")
        if not 0 < self.back <= 1:
            raise InputError(f"--back must be above 0, the base, and at most 1, the model before unlearning; got {self.back}.")
        if min(self.negation, self.lens_weight, self.alpha, self.dual_step, self.anchor_weight) < 0:
            raise InputError("--negation, --dual-step and the weights must be 0 or more.")

    @property
    def needs_base(self) -> bool:
        """The base model is the source of the levels."""
        return True

    def edit(self, context: Context) -> Outcome:
        """Estimate the levels of all views, compute the start, distil, and report how close the exact texts came."""
        if not context.holdout:
            raise InputError("calibrated_distillation calibrates on never-trained records. Give them with --holdout FILE.")
        if context.options.lora and not is_adapter(context.loaded.model):
            raise InputError(
                "calibrated_distillation starts at other weights, from which a new adapter on whole weights does not lead back. "
                "Leave out --lora, or use level, which starts at the model itself."
            )
        loaded, base = context.loaded, base_of(context, "calibrated_distillation")
        exact = encoded(loaded, context.forget, context.options.overflow)
        claim_estimate(context, self)
        options = self._run_options(context)
        views = draw_views(context.forget, self.views, np.random.default_rng([options.seed, 31]))
        layers = layers_at(loaded.model, self.depths)
        tokens, levels = levels_of_views(loaded, base, views, context.holdout, layers, options)
        start, negated = start_weights(context, self.back, self.negation)
        records = [view.record for view in views]
        windows = encoded(loaded, records, options.overflow)
        tables = {"forget_level": tokens, "forget_context": [CONTEXTS.index(views[window.record].context) for window in windows]}
        objective = ToReadings(layers, CONTEXTS, self.lens_weight, self.alpha, self.dual_step, self.anchor_weight)
        work = context.work_dir / "distillation"
        work.mkdir(exist_ok=True)
        run = Run(records, options, work, retain=context.retain, gradients=context.gradients, tables=tables, start=start)
        done = run_objective(loaded, objective, run)
        trained = [result for result in (negated, done.result) if result is not None]
        return outcome_near_level(context, done.model, levels, exact, trained, options.learning_rate)

    def _run_options(self, context: Context) -> TrainingOptions:
        """Return the options of the distillation: the passes over the records are divided among their views."""
        options = context.options
        assert options.epochs is not None, "the method has a default"
        # A sentence in front may make a record too long for a context that its exact text fits.
        rate = learning_rate_for(context, RATE)
        return dataclasses.replace(options, epochs=options.epochs / self.views, learning_rate=rate, overflow="split")
