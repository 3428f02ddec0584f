"""Auto: run candidate methods from cheap to expensive, audit each result, and fall back to an exact rebuild."""

import copy
import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from unlearn.defenses.federation import FEDERATION
from unlearn.level.estimate import retraining_passes
from unlearn.methods import method_classes
from unlearn.training.log import LOG_NAME
from unlearn.training.method import Context, Cost, Method, Outcome, Rebuild
from unlearn.training.options import TrainingOptions, TrainingResult, together
from unlearn.training.shards import SavedShards
from unlearn.training.weights import mean_loss
from verify.data.encoding import Encoder
from verify.data.records import Record
from verify.data.subjects import subject_groups
from verify.errors import InputError, RunError
from verify.io.arguments import checked
from verify.io.files import MANIFEST, read_json
from verify.models.ensembles import ENSEMBLE
from verify.models.loading import load_model
from verify.provenance.holdout import HoldoutSplit, split_holdout
from verify.provenance.shard_plan import SHARDS
from verify.provenance.training_history import EXACTNESS, NOT_EXACT
from verify.schema.differences import ReferenceDifference
from verify.schema.settings import Settings

MINIMUM_REFERENCES = 3
TUNED = ("npo", "simnpo", "grad_diff", "undial", "grad_ascent_kl", "wga", "satimp", "dpo")
"""Methods whose learning rate is tuned."""


@checked
@dataclass(frozen=True)
class Auto(Rebuild):
    """Run the cheapest suitable method, audit it, fall back to the next, and finally rebuild exactly.

        attempt i:  theta_i = method_i(theta_0);  stop at the first i with verdict(theta_i, half B of D_f) = EQUIVALENT_WITHIN

    Every attempt starts from the model before unlearning and removes the whole forget set. Learning rates are tuned on half A of
    the forget set (the rate whose mean loss comes closest to that of the reference models), and the verdict is computed on half B,
    so that no attempt is judged on the records it was tuned on. The holdout set is divided too, half for the attempts and half for
    their audits. An approximate attempt is judged against reference models; with fewer than three of them auto runs the exact
    rebuild at once. That a claim of unlearning needs an audit: Thudi et al. 2022 (arXiv 2110.11891).

    Do not use it where a retraining is affordable anyway and time is short: retrain does the same in one attempt.

    Attributes:
        ladder: candidate methods in the order they are tried, cheapest first; the exact rebuild is appended automatically.
        references: folders of models fine-tuned without the forget set, at least three.
        accept: how the references may differ from retrainings of the model, by the names of `verify.audit`.
        rates: multiples of each method's learning rate to try.
        budget: limit on the total cost, in retrainings (by tokens). An attempt that does not fit is skipped, the exact rebuild too.
    """

    ladder: tuple[str, ...] = ("npo", "level")
    references: tuple[str, ...] = ()
    accept: tuple[ReferenceDifference, ...] = ()
    rates: tuple[float, ...] = (1.0, 10.0, 100.0)
    budget: float = 3.0

    idea: ClassVar[str] = "cheapest method first, each audited; an exact rebuild as the last resort"
    paper: ClassVar[str] = "compare Thudi et al. 2022 (arXiv 2110.11891)"
    cost: ClassVar[Cost] = "a retraining"
    reads_holdout: ClassVar[bool] = True
    NEEDS: ClassVar[Mapping[str, str]] = {
        **Rebuild.NEEDS,
        **dict.fromkeys(("ladder", "accept", "rates", "holdout"), "--references"),
    }
    exactness: ClassVar[str] = (
        'Exact only where the last attempt was an exact rebuild; the field "rungs" lists the attempts in order.'
    )

    def __post_init__(self) -> None:
        unknown = [name for name in self.ladder if name not in method_classes() or name == "auto"]
        if unknown:
            raise InputError(f"--ladder names {', '.join(unknown)}, which auto cannot run. `unlearn methods` lists the methods.")
        if self.budget <= 0 or not self.rates or min(self.rates) <= 0:
            raise InputError("auto needs a --budget above 0 and --rates above 0. Leave them out for the defaults.")

    def rebuild(self, context: Context) -> Outcome:
        """Run attempts until an audit certifies one, else rebuild exactly.

        Raises:
            InputError: the model is in memory; every attempt loads it from its folder again.
            RunError: the budget was too small for any attempt.
        """
        if context.model_dir is None:
            raise InputError("auto starts every attempt from the model's folder. Give the folder instead of a model in memory.")
        attempts = _Attempts(self, context)
        judged = len(self.references) >= MINIMUM_REFERENCES
        several = (context.model_dir / ENSEMBLE).is_file()  # adapters that answer together can only be rebuilt
        for name in self.ladder if judged and not several else ():
            if attempts.run(name):
                return attempts.outcome()
        attempts.run_exact()
        return attempts.outcome()


class _Attempts:
    """The state of one run: the attempts so far, their cost, and the current result."""

    def __init__(self, auto: Auto, context: Context) -> None:
        self.auto, self.context = auto, context
        assert context.verbs is not None, "`forget` hands them down"
        self.verbs = context.verbs
        assert context.model_dir is not None
        self.model_dir = context.model_dir
        self.tuning, self.judged = _halves(context.forget, context.options.seed)
        self._holdout: HoldoutSplit | None = None
        encoder = Encoder(context.loaded.tokenizer, context.loaded.context_length, "split")
        self.tokens = {
            role: sum(len(window.input_ids) for window in encoder.encode(records))
            for role, records in (("forget", context.forget), ("retain", context.retain))
        }
        # Tokens of one retraining: passes (whether the options give epochs or steps) times tokens of the retain set. The options
        # are those of the model's training log, overridden by the user's.
        windows = len(encoder.encode(context.retain))
        self.retraining = max(1.0, retraining_passes(context.options, windows) * self.tokens["retain"])
        self.spent = 0.0  # in retrainings
        self.trainings: list[TrainingResult] = []
        self.records: list[dict[str, Any]] = []
        self.result: Path | None = None
        self.reference_loss: float | None = None

    def run(self, name: str) -> bool:
        """Run a method once per learning rate, audit the best of them, and return whether the audit certified it."""
        kind = method_classes()[name]
        factors = self.auto.rates if name in TUNED else (1.0,)
        runs, nearest = [], np.inf
        for number, factor in enumerate(factors):
            price = self._price(kind())
            if self.spent + price > self.auto.budget:
                self.records.append({"method": name, "rate_multiple": factor, "outcome": "not run: over the budget"})
                continue
            folder = self.context.work_dir / f"{name}-{number}"
            rate = kind.defaults.get("learning_rate")
            options = dataclasses.replace(self._options(), learning_rate=None if rate is None else rate * factor)
            try:
                self._count(self._forget(kind(), folder, options).training)
                distance = abs(self._mean_loss(folder) - self._reference_loss())
            except RunError:
                self.records.append({"method": name, "rate_multiple": factor, "outcome": "diverged"})
                continue
            runs.append((factor, folder))
            if distance < nearest:
                nearest, best = distance, (factor, folder)
        if not runs:
            return False
        factor, folder = best
        verdict, why = self._audit(folder, self.judged, self.context.work_dir / f"audit-{name}")
        self.records.append(
            {"method": name, "rate_multiple": factor, "distance_on_the_tuning_half": nearest, "verdict": verdict, "why": why}
        )
        self._take(folder, self.context.work_dir / f"audit-{name}", [other for _, other in runs])
        return verdict == "EQUIVALENT_WITHIN"

    def run_exact(self) -> None:
        """Run the exact rebuild that fits how the model was trained, if the budget allows it.

        Raises:
            RunError: the budget allowed no attempt at all.
        """
        name = exact_method(self.model_dir)
        if self.spent + self._exact_price() > self.auto.budget:
            self.records.append({"method": name, "outcome": "not run: over the budget; THE RESULT IS NOT EXACT"})
            if self.result is None:
                raise RunError(f"the budget of {self.auto.budget:g} retrainings allows no attempt. Raise --budget.")
            return
        folder = self.context.work_dir / "exact"
        result = self._forget(method_classes()[name](), folder, self.context.options)
        self._count(result.training)
        said = {key: result.facts[key] for key in (EXACTNESS, NOT_EXACT) if key in result.facts}
        entry: dict[str, Any] = {"method": name, **said}
        audit = self.context.work_dir / "audit-exact"
        if len(self.auto.references) >= MINIMUM_REFERENCES:
            entry["verdict"], entry["why"] = self._audit(folder, self.judged, audit)
        else:
            entry["why"] = f"{len(self.auto.references)} references are too few for a verdict on an approximate attempt"
        self.records.append(entry)
        self._take(folder, audit, [])

    def outcome(self) -> Outcome:
        """Return the last attempt's model and a record of all attempts; moves its log and audit to the output folder."""
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
            "rungs": self.records,  # the key keeps the name it has in manifests already written
            "share_of_retraining_tokens": self.spent,
            "tuned_on_records": len(self.tuning),
            "judged_on_records": len(self.judged),
        }
        return Outcome(model, together(self.trainings), facts)

    def _forget(self, method: Any, folder: Path, options: TrainingOptions) -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        base = self.context.base
        return self.verbs.forget(
            str(self.model_dir),
            method,
            forget_set=list(self.context.forget),
            retain_set=list(self.context.retain),
            # A rebuild reads none.
            holdout_set=None if isinstance(method, Rebuild) else self._divided().method or None,
            # A copy: a rebuild trains in place, and a later attempt needs the base again.
            base=None if base is None else dataclasses.replace(base, model=copy.deepcopy(base.model)),
            output_dir=folder,
            options=options,
            dtype=self.context.dtype,
        )

    def _divided(self) -> HoldoutSplit:
        """Split the holdout set, half for the attempts and half for their audits."""
        if self._holdout is None:
            self._holdout = split_holdout(self.context.holdout) if len(self.context.holdout) else HoldoutSplit([], [])
        return self._holdout

    def _options(self) -> TrainingOptions:
        """Return the user's options less those that each method recommends for itself."""
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

    def _price(self, method: Method) -> float:
        """Estimate a method's cost in retrainings, by tokens."""
        epochs = float(method.defaults.get("epochs") or 0.0)
        passes = 2 if method.trains_in_steps and method.needs_retain else 1  # every forget row comes with a retain row
        return method.upfront_cost + epochs * passes * self.tokens["forget"] / self.retraining

    def _exact_price(self) -> float:
        """Bound the cost of the exact rebuild in retrainings: one shard per person, else all of it."""
        if not (self.model_dir / SHARDS).is_file():
            return 1.0
        people = set(subject_groups(self.context.forget))
        return min(1.0, len(people) / SavedShards.read(self.model_dir).plan.shards)

    def _count(self, training: TrainingResult | None) -> None:
        if training is not None:
            self.trainings.append(training)
            self.spent += training.tokens / self.retraining

    def _mean_loss(self, folder: Path) -> float:
        return mean_loss(load_model(folder, tokenizer=self.context.loaded.tokenizer), self.tuning)

    def _reference_loss(self) -> float:
        """Compute the mean loss of the tuning half under the reference models, nats per token."""
        if self.reference_loss is None:
            self.reference_loss = float(np.mean([self._mean_loss(Path(folder)) for folder in self.auto.references]))
        return self.reference_loss

    def _audit(self, folder: Path, judged: Sequence[Record], output: Path) -> tuple[str, str]:
        shutil.rmtree(output, ignore_errors=True)
        evidence = self.verbs.audit(
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
        """Keep this attempt's model as the result, and delete the others, which still hold what is being removed."""
        for other in {*tried, self.result} - {folder, None}:
            shutil.rmtree(str(other), ignore_errors=True)
        self.result = folder
        if audit.is_dir():
            shutil.rmtree(self.context.work_dir / "audit", ignore_errors=True)
            shutil.move(audit, self.context.work_dir / "audit")


def exact_method(model_dir: Path) -> str:
    """Return the name of the exact rebuild that fits how a model was trained."""
    if (model_dir / FEDERATION).is_file():
        return "client_retrain"
    if (model_dir / SHARDS).is_file():
        return "shard_vectors" if SavedShards.read(model_dir).plan.combine == "sum" else "sisa"
    if (model_dir / LOG_NAME).is_file() and any(model_dir.glob("checkpoint-*")):
        return "rollback"
    return "retrain"


def _halves(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    """Split records into two halves by subject, or by record where no subjects are named."""
    owners = subject_groups(records)
    units = sorted(set(owners))
    if len(units) < 2:
        raise InputError(
            "auto tunes on one half of the forget set and judges on the other, which takes two people or records. Use retrain."
        )
    drawn = np.random.default_rng([seed, 5]).permutation(len(units))
    first = {units[index] for index in drawn[: len(units) // 2]}
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record, owner in zip(records, owners, strict=True):
        sides[owner not in first].append(record)
    return sides
