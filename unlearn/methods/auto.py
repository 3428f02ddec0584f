"""Auto: from cheap to certain. Climb until the audit is satisfied, and end with an exact rebuild."""

import copy
import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from unlearn.defenses.federation import FEDERATION
from unlearn.levels import retraining_passes
from unlearn.methods.base import Context, Cost, Objective, Outcome, Rebuild
from unlearn.methods.level import Level
from unlearn.options import TrainingOptions
from unlearn.provenance import LOG_NAME
from unlearn.results import TrainingResult, together
from unlearn.shards import SHARDS, SavedShards
from verify.arguments import checked
from verify.differences import ReferenceDifference
from verify.encoding import Encoder
from verify.ensembles import ENSEMBLE
from verify.errors import InputError, RunError
from verify.files import MANIFEST, read_json
from verify.holdout import HoldoutSplit, split_holdout
from verify.models import load_model
from verify.records import Record
from verify.subjects import people_of

MINIMUM_REFERENCES = 3
TUNED = ("npo", "simnpo", "grad_diff", "undial", "grad_ascent_kl", "wga", "satimp", "dpo")
"""Rungs whose learning rate is tuned."""


@checked
@dataclass(frozen=True)
class Auto:
    """Try the cheapest suitable method, audit, go on to the next; in the end rebuild exactly.

        rung i:  theta_i = method_i(theta_0);  stop at the first i with verdict(theta_i, half B of D_f) = EQUIVALENT_WITHIN

    Learning rates are tuned on one half of the forget set (by how near its mean loss comes to that of the references), and the
    verdict is about the other half, so that nothing is judged on what it was fitted to; all of it is removed in every rung. The
    holdout set is divided in the same way, half for the rungs and half for their audits. An
    approximate rung needs references to be judged by; without three of them auto goes to the exact rebuild at once.
    The idea of a verified ladder: Thudi et al. 2022 (arXiv 2110.11891), that a claim of unlearning needs an audit.

    Do not use it where a retraining is affordable anyway and time is short: retrain alone is one rung.

    Attributes:
        ladder: methods in the order of their cost; the exact rebuild is added by itself.
        references: folders of models fine-tuned without the forget set, at least three.
        accept: how they may differ from retrainings of the model, by the names of `verify.audit`.
        rates: multiples of each method's learning rate that are tried.
        budget: how much may be spent in all, in retrainings (by tokens). What does not fit is not begun; the exact rebuild neither.
    """

    ladder: tuple[str, ...] = ("npo", "level")
    references: tuple[str, ...] = ()
    accept: tuple[ReferenceDifference, ...] = ()
    rates: tuple[float, ...] = (1.0, 10.0, 100.0)
    budget: float = 3.0

    idea: ClassVar[str] = "cheapest method, audit, next; in the end an exact rebuild"
    paper: ClassVar[str] = "compare Thudi et al. 2022 (arXiv 2110.11891)"
    cost: ClassVar[Cost] = "a retraining"
    needs_retain: ClassVar[bool] = True
    needs_base: ClassVar[bool] = True
    exactness: ClassVar[str] = "Exact only where the last rung was an exact rebuild; `rungs` says which rung the result is."
    defaults: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        from unlearn.methods import method_classes

        unknown = [name for name in self.ladder if name not in method_classes() or name == "auto"]
        if unknown:
            raise InputError(f"--ladder names {', '.join(unknown)}, which is no method to climb. See `unlearn methods`.")
        if self.budget <= 0 or not self.rates or min(self.rates) <= 0:
            raise InputError("auto needs a --budget above 0 and positive --rates.")

    def rebuild(self, context: Context) -> Outcome:
        """Climb.

        Raises:
            InputError: the model is not a folder, from which every rung begins anew.
            RunError: the budget was too small for any rung.
        """
        if context.model_dir is None:
            raise InputError("auto begins every rung from the model's folder. Give the folder instead of a model in memory.")
        climb = _Climb(self, context)
        judged = len(self.references) >= MINIMUM_REFERENCES
        several = (context.model_dir / ENSEMBLE).is_file()  # adapters that answer together can only be rebuilt
        for name in self.ladder if judged and not several else ():
            if climb.try_rung(name):
                return climb.outcome()
        climb.exact()
        return climb.outcome()


class _Climb:
    """One climb: what was tried, what it cost, and where the best result lies."""

    def __init__(self, auto: Auto, context: Context) -> None:
        self.auto, self.context = auto, context
        assert context.model_dir is not None
        self.model_dir = context.model_dir
        self.tuning, self.judged = _halves(context.forget, context.options.seed)
        self._holdout: HoldoutSplit | None = None
        encoder = Encoder(context.loaded.tokenizer, context.loaded.context_length, "split")
        self.tokens = {
            role: sum(len(window.input_ids) for window in encoder.encode(records))
            for role, records in (("forget", context.forget), ("retain", context.retain))
        }
        # The options are those of the model's training log, or what the user said.
        # In passes, whether the training was set in epochs or in steps.
        windows = len(encoder.encode(context.retain))
        self.retraining = max(1.0, retraining_passes(context.options, windows) * self.tokens["retain"])
        self.spent, self.done, self.rungs = 0.0, [], []  # type: ignore[var-annotated]
        self.result: Path | None = None
        self.level: float | None = None

    def try_rung(self, name: str) -> bool:
        """Run, tune and audit one method; whether the audit was satisfied."""
        from unlearn.methods import method_classes

        kind = method_classes()[name]
        factors = self.auto.rates if name in TUNED else (1.0,)
        runs, nearest = [], np.inf
        for number, factor in enumerate(factors):
            price = self._price(kind())
            if self.spent + price > self.auto.budget:
                self.rungs.append({"method": name, "rate_multiple": factor, "outcome": "not begun: beyond the budget"})
                continue
            folder = self.context.work_dir / f"{name}-{number}"
            rate = kind.defaults.get("learning_rate")
            options = dataclasses.replace(self._options(), learning_rate=None if rate is None else rate * factor)
            try:
                self._count(self._forget(kind(), folder, options).training)
                distance = abs(self._mean_loss(folder) - self._level())
            except RunError:
                self.rungs.append({"method": name, "rate_multiple": factor, "outcome": "diverged"})
                continue
            runs.append((factor, folder))
            if distance < nearest:
                nearest, best = distance, (factor, folder)
        if not runs:
            return False
        factor, folder = best
        verdict, why = self._audit(folder, self.judged, self.context.work_dir / f"audit-{name}")
        self.rungs.append(
            {"method": name, "rate_multiple": factor, "distance_on_the_tuning_half": nearest, "verdict": verdict, "why": why}
        )
        self._take(folder, self.context.work_dir / f"audit-{name}", [other for _, other in runs])
        return verdict == "EQUIVALENT_WITHIN"

    def exact(self) -> None:
        """The rebuild that fits how the model was trained, if the budget allows it.

        Raises:
            RunError: there is no result at all within the budget.
        """
        from unlearn.methods import method_classes

        name = exact_method(self.model_dir)
        if self.spent + self._exact_price() > self.auto.budget:
            self.rungs.append({"method": name, "outcome": "not begun: beyond the budget; THE RESULT IS NOT EXACT"})
            if self.result is None:
                raise RunError(f"the budget of {self.auto.budget:g} retrainings allows no rung. Raise --budget.")
            return
        folder = self.context.work_dir / "exact"
        result = self._forget(method_classes()[name](), folder, self.context.options)
        self._count(result.training)
        entry: dict[str, Any] = {"method": name, "exactness": result.facts["exactness"]}
        audit = self.context.work_dir / "audit-exact"
        if len(self.auto.references) >= MINIMUM_REFERENCES:
            entry["verdict"], entry["why"] = self._audit(folder, self.judged, audit)
        else:
            entry["why"] = f"{len(self.auto.references)} references are too few for a verdict on an approximate rung"
        self.rungs.append(entry)
        self._take(folder, audit, [])

    def outcome(self) -> Outcome:
        """The model of the last rung that was taken, with its log and audit beside it, and the whole story."""
        assert self.result is not None
        model = load_model(self.result, tokenizer=self.context.loaded.tokenizer).model
        for extra in (LOG_NAME, FEDERATION, *(path.name for path in self.result.glob("checkpoint-*"))):
            if (self.result / extra).exists():
                shutil.move(self.result / extra, self.context.output_dir / extra)
        if (self.context.work_dir / "audit").is_dir():
            shutil.copytree(self.context.work_dir / "audit", self.context.output_dir / "audit", dirs_exist_ok=True)
        defense = read_json(self.result / MANIFEST)["about"].get("defense")
        facts = {
            **({} if defense is None else {"defense": defense}),
            "rungs": self.rungs,
            "share_of_retraining_tokens": self.spent,
            "tuned_on_records": len(self.tuning),
            "judged_on_records": len(self.judged),
        }
        return Outcome(model, together(self.done), facts)

    def _forget(self, method: Any, folder: Path, options: TrainingOptions) -> Any:
        from unlearn.forgetting import forget

        shutil.rmtree(folder, ignore_errors=True)
        base = self.context.base
        return forget(
            str(self.model_dir),
            method,
            forget_set=list(self.context.forget),
            retain_set=list(self.context.retain),
            # A rebuild reads none.
            holdout_set=None if isinstance(method, Rebuild) else self._divided().method or None,
            # A copy: a rebuild trains in place, and a later rung needs the base again.
            base=None if base is None else dataclasses.replace(base, model=copy.deepcopy(base.model)),
            output_dir=folder,
            options=options,
            dtype=self.context.dtype,
        )

    def _divided(self) -> HoldoutSplit:
        """The holdout set, half for the rungs and half for their audits."""
        if self._holdout is None:
            self._holdout = split_holdout(self.context.holdout) if len(self.context.holdout) else HoldoutSplit([], [])
        return self._holdout

    def _options(self) -> TrainingOptions:
        return dataclasses.replace(
            self.context.options,
            epochs=None,
            max_steps=None,
            learning_rate=None,
            batch_size=None,
            gradient_accumulation=1,
            save_steps=0,
            scheduler=None,
        )

    def _price(self, method: Any) -> float:
        """Estimated cost in retrainings, by tokens."""
        epochs = float(method.defaults.get("epochs") or 0.0)
        paired = isinstance(method, Objective | Level) and method.needs_retain
        first = method.share if isinstance(method, Level) else 0.0  # of a retraining, before its own steps
        return first + epochs * (2 if paired else 1) * self.tokens["forget"] / self.retraining

    def _exact_price(self) -> float:
        """At most what the exact rebuild costs, in retrainings: a shard for every person, else all of it."""
        if not (self.model_dir / SHARDS).is_file():
            return 1.0
        people = set(people_of(self.context.forget))
        return min(1.0, len(people) / SavedShards.read(self.model_dir).plan.shards)

    def _count(self, training: TrainingResult | None) -> None:
        if training is not None:
            self.done.append(training)
            self.spent += training.tokens / self.retraining

    def _mean_loss(self, folder: Path) -> float:
        from unlearn.weights import mean_loss

        return mean_loss(load_model(folder, tokenizer=self.context.loaded.tokenizer), self.tuning)

    def _level(self) -> float:
        """Mean loss of the tuning half under the references."""
        if self.level is None:
            self.level = float(np.mean([self._mean_loss(Path(folder)) for folder in self.auto.references]))
        return self.level

    def _audit(self, folder: Path, judged: Sequence[Record], output: Path) -> tuple[str, str]:
        from verify import Settings, audit

        shutil.rmtree(output, ignore_errors=True)
        evidence = audit(
            str(folder),
            str(self.model_dir),
            references=list(self.auto.references),
            forget_set=list(judged),
            retain_set=list(self.context.retain),
            holdout_set=self._divided().audit or None,
            output_dir=output,
            tokenizer=self.context.loaded.tokenizer,
            settings=Settings(attacks=("quick",), seed=self.context.options.seed, overflow="split"),
            cache_dir=self.context.work_dir / "cache",
            accept=self.auto.accept,
        )
        return evidence.verdict, evidence.explanation[0]

    def _take(self, folder: Path, audit: Path, tried: Sequence[Path]) -> None:
        """Make this rung's model the result so far; the others go, as they hold what is being removed."""
        for other in {*tried, self.result} - {folder, None}:
            shutil.rmtree(str(other), ignore_errors=True)
        self.result = folder
        if audit.is_dir():
            shutil.rmtree(self.context.work_dir / "audit", ignore_errors=True)
            shutil.move(audit, self.context.work_dir / "audit")


def exact_method(model_dir: Path) -> str:
    """Name of the exact rebuild that fits how a model was trained."""
    if (model_dir / FEDERATION).is_file():
        return "client_retrain"
    if (model_dir / SHARDS).is_file():
        return "shard_vectors" if SavedShards.read(model_dir).plan.combine == "sum" else "sisa"
    if (model_dir / LOG_NAME).is_file() and any(model_dir.glob("checkpoint-*")):
        return "rollback"
    return "retrain"


def _halves(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    """Two halves by subject, so that nobody is in both; by record where no subjects are named."""
    owners = people_of(records)
    units = sorted(set(owners))
    if len(units) < 2:
        raise InputError(
            "auto tunes on one half of the forget set and judges on the other; two people or records are needed. Use retrain."
        )
    drawn = np.random.default_rng([seed, 5]).permutation(len(units))
    first = {units[index] for index in drawn[: len(units) // 2]}
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record, owner in zip(records, owners, strict=True):
        sides[owner not in first].append(record)
    return sides
