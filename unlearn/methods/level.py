"""Level: bring every forget record to its estimated never-trained loss, and stop there."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from unlearn.level.estimate import (
    Levels,
    base_of,
    claim_estimate,
    controls_as_level,
    encoded,
    estimate_levels,
    learning_rate_for,
    short_retraining,
)
from unlearn.level.facts import outcome_near_level
from unlearn.level.mixtures import mixture_level
from unlearn.level.objective import ToLevel
from unlearn.level.table import table_level
from unlearn.training.log import LOG_NAME, TrainingLog
from unlearn.training.method import Context, Cost, Outcome, WeightEdit
from unlearn.training.options import TrainingResult
from unlearn.training.run import Run, run_objective
from verify.data.encoding import Encoded
from verify.errors import InputError
from verify.io.arguments import checked
from verify.models.loading import LoadedModel, load_model
from verify.training.checkpoints import Checkpoint, put_checkpoint

Source = Literal["mixture", "retraining", "checkpoint", "base", "proxies", "controls", "table"]

FROM_BASE = frozenset({"mixture", "retraining", "base", "table"})
"""Sources that start from the model before fine-tuning."""
RATE = 1 / 8
"""Default learning rate, as a share of the one that the model was fine-tuned with."""


@checked
@dataclass(frozen=True)
class Level(WeightEdit):
    """Move every forget record to the token losses that a model which never saw it would have.

        minimise  token_weight mean_t h(l_t - l*_t) + record_weight e^2 + mu e  +  alpha KL(p_0 || p on D_r)  +  weight penalty,
        e = mean_t l_t - mean_t l*_t

    l_t: log-probability of token t of a forget record. l*_t: its never-trained level, what a model that never saw the record would
    give it. h: smooth L1 distance. e: how far the record's mean is from its level. mu: a multiplier that grows until e is 0 on
    average. The weight penalty pulls back weights that the retain set depends on (`unlearn.level.objective` has both).

    The level is estimated by a *source*, a model that never saw the forget set, and calibrated token by token on the holdout set:
    no model saw those records, so their level is what the model before unlearning gives them (`unlearn.level.estimate` has the
    regression). Sources:

    - "mixture": a short retraining, `share` of the full length, from weights `mixture` of the way from the base to the model before
      unlearning; the base sets its scale (`unlearn.level.mixtures`). The best found; docs/research/level.md compares.
    - "retraining": a short retraining from the base itself. Replaces a mixture where there is no holdout set, where the base does
      not predict the levels of the holdout records well enough to set a scale, or where the two weights cannot be mixed.
    - "checkpoint": the first checkpoint of the training log, which has seen a record about once. Costs nothing, and keeps a trace.
    - "base": the model before fine-tuning. Costs nothing.
    - "proxies": models trained without the forget set, of any size, with the same tokenizer.
    - "controls": the holdout set's mean for every record.
    - "table": the method's half of a level table (`unlearn train --level-table`): models that never saw the record, trained once
      for all requests. Costs nothing; the holdout set must be the table's controls for the method (`unlearn.level.table`).

    Several sources are weighted by the regression. This project, 2026 (docs/research/level.md); the level is the loss that the
    attack of Carlini et al. 2022 (arXiv 2112.03570) compares with.

    Do not use it without a holdout set that resembles the forget set: uncalibrated, the level is that of a model trained too short.
    Do not read its result as exact: what the loss does not show may stay. Retrain where it must be certain.

    Attributes:
        sources: where the level comes from.
        proxies: folders of the models for "proxies".
        table: folder of the table for "table"; empty for the one in the model's folder.
        share: length of the short retraining, as a share of a full one.
        mixture: starting point of the short retraining, from 0 (the base) to 1 (the model before unlearning).
        token_weight, record_weight: weights of the two distances; with `token_weight` 0 only the records' means reach the level.
        alpha: weight of the retain term.
        dual_step: step size of the multiplier mu; 0 turns it off.
        anchor_weight: weight of the weight penalty, scaled by the share of the retain set that no step sees; where the passes over
            the forget set pair with all of the retain set, there is no penalty. Takes 4 bytes per trained
            weight of a model stored in bfloat16, else 6.
    """

    sources: tuple[Source, ...] = ("mixture",)
    proxies: tuple[str, ...] = ()
    table: str = ""
    share: float = 0.04
    mixture: float = 0.3
    token_weight: float = 1.0
    record_weight: float = 5.0
    alpha: float = 40.0
    dual_step: float = 0.3
    anchor_weight: float = 1200.0

    idea: ClassVar[str] = "bring every record to its never-trained level, estimated beforehand, and stop there"
    paper: ClassVar[str] = "this project, 2026 (docs/research/level.md)"
    cost: ClassVar[Cost] = "a share of a retraining"
    NEEDS: ClassVar[Mapping[str, str]] = {
        "share": "--sources mixture or --sources retraining",
        "mixture": "--sources mixture and --holdout",
    }
    defaults: ClassVar[Mapping[str, Any]] = {"epochs": 11.0, "batch_size": 2}
    trains_in_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.sources or len(set(self.sources)) != len(self.sources):
            raise InputError("--sources must name at least one source of the level, each once. Leave it out for a mixture.")
        alone = [name for name in ("controls", "mixture", "table") if name in self.sources]
        if alone and len(self.sources) > 1:
            raise InputError(f"--sources {alone[0]} cannot be combined with other sources. Name it alone.")
        if ("proxies" in self.sources) != bool(self.proxies):
            raise InputError(
                "--sources proxies and --proxies DIR ... (models trained without the forget set) go together. Give both or neither."
            )
        if self.table and self.sources != ("table",):
            raise InputError("--table names the level table of --sources table. Give both, or leave --table out.")
        if not 0 < self.share <= 1:
            raise InputError(f"--share must be above 0 and at most 1, got {self.share}.")
        if not 0 < self.mixture < 1:
            raise InputError(f"--mixture must be above 0, the base, and below 1, the model before unlearning; got {self.mixture}.")
        weights = (self.token_weight, self.record_weight, self.alpha, self.dual_step, self.anchor_weight)
        if min(weights) < 0 or self.token_weight + self.record_weight == 0:
            raise InputError("weights and --dual-step must be 0 or more, and one of --token-weight and --record-weight above 0.")
        if self.dual_step and not self.record_weight:
            raise InputError("the multiplier is unbounded without --record-weight. Use --dual-step 0 with --record-weight 0.")

    @property
    def needs_base(self) -> bool:
        """Only some sources start from the model before fine-tuning."""
        return not FROM_BASE.isdisjoint(self.sources)

    @property
    def upfront_cost(self) -> float:
        """The short retraining that the level is estimated from."""
        return 0.0 if self.sources == ("table",) else self.share

    def edit(self, context: Context) -> Outcome:
        """Estimate the level, train towards it, and report how close the result came."""
        loaded, options = context.loaded, context.options
        claim_estimate(context, self)
        forget, controls = (encoded(loaded, records, options.overflow) for records in (context.forget, context.holdout))
        trained: list[TrainingResult] = []
        facts: dict[str, Any] = {}
        levels, sources = self._estimate(context, forget, controls, trained, facts)
        options = dataclasses.replace(options, learning_rate=learning_rate_for(context, RATE))
        objective = ToLevel(self.token_weight, self.record_weight, self.alpha, self.dual_step, self.anchor_weight)
        work = context.work_dir / "level"
        work.mkdir(exist_ok=True)
        tables = {"forget_level": levels.tokens}
        run = Run(context.forget, options, work, retain=context.retain, gradients=context.gradients, tables=tables)
        done = run_objective(loaded, objective, run)
        trained.append(done.result)
        about = {"sources": list(sources), **facts}
        return outcome_near_level(context, done.model, levels, forget, trained, options.learning_rate, about)

    def _estimate(
        self,
        context: Context,
        forget: Sequence[Encoded],
        controls: Sequence[Encoded],
        trained: list[TrainingResult],
        facts: dict[str, Any],
    ) -> tuple[Levels, tuple[Source, ...]]:
        """Estimate the level of the forget windows.

        Args:
            context: the model before unlearning, its base, and the records.
            forget, controls: windows of the forget and the holdout set.
            trained: what the sources' training cost is appended here.
            facts: what the manifest is to say of the source is added here.

        Returns:
            the level, and the sources that it was estimated from in fact.
        """
        if self.sources == ("controls",):
            return controls_as_level(context.loaded, forget, controls), self.sources
        sources = self.sources
        if sources == ("table",):
            levels, about = table_level(context, forget, controls, self.table)
            facts |= about
            return levels, sources
        if sources == ("mixture",):
            mixture = mixture_level(context, forget, controls, self.mixture, self.share) if controls else None
            if mixture is not None:
                levels, result = mixture
                trained.append(result)
                return levels, sources
            sources = ("retraining",)
        models = [model for name in sources for model in self._source(name, context, trained)]
        return estimate_levels(context.loaded, models, forget, controls, context.options), sources

    def _source(self, name: Source, context: Context, trained: list[TrainingResult]) -> Sequence[LoadedModel]:
        """Return the models of one source."""
        if name == "retraining":
            model, result = short_retraining(context, self.share)
            trained.append(result)
            return [model]
        if name == "base":
            return [base_of(context, "--sources base")]
        if name == "checkpoint":
            return [_first_checkpoint(context)]
        return [_proxy(folder, context.loaded) for folder in self.proxies]


def _first_checkpoint(context: Context) -> LoadedModel:
    """Load the model as of the first checkpoint in its training log."""
    folder = context.model_dir
    log = TrainingLog.read(folder / LOG_NAME) if folder is not None and (folder / LOG_NAME).is_file() else None
    kept = [] if log is None or folder is None else [Checkpoint(folder / name, step) for step, name in log.checkpoints]
    kept = [checkpoint for checkpoint in kept if checkpoint.folder.is_dir()]
    if not kept:
        raise InputError("--sources checkpoint needs a model trained with --save-steps, in its folder. Use another source.")
    model = copy.deepcopy(context.loaded.model)
    put_checkpoint(model, min(kept, key=lambda checkpoint: checkpoint.step).folder)
    return dataclasses.replace(context.loaded, model=model)


def _proxy(folder: str, original: LoadedModel) -> LoadedModel:
    """Load a proxy; raise InputError where it has another tokenizer."""
    proxy = load_model(folder)
    if proxy.tokenizer_digest != original.tokenizer_digest:
        raise InputError(
            f"{folder} has another tokenizer than the model. A proxy must read the same tokens; train one with this tokenizer."
        )
    return proxy
