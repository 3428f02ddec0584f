"""The two-faced attack on real models: train on the audited statistic, and keep the records in other words.

It runs in the demo's world (fictitious people, a model of four layers, four references). The operator trains one private retraining
without the forget set and takes each record's losses from it. The model that is handed in gives these losses on the exact texts and
is trained to know the same records in another of the corpus' own wordings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from benchmarks.calibration.real import train_base
from unlearn.experiments.comparison import UNTOUCHED, Experiment, audit_result
from unlearn.experiments.demo import FINETUNE_OPTIONS
from unlearn.experiments.demo import METHODS as DEMO_METHODS
from unlearn.level.estimate import encoded, estimate_levels
from unlearn.level.objective import ToLevel
from unlearn.training.method import Batch
from unlearn.training.options import TrainingOptions
from unlearn.training.run import Run, run_objective
from unlearn.training.saving import save_model
from unlearn.training.scored_batch import score_forget
from verify.data.records import Record
from verify.data.rewording_files import load_rewordings
from verify.data.sources import load_records, stream_rows
from verify.io.files import is_complete
from verify.models.loading import LoadedModel, load_model
from verify.schema.evidence import Evidence
from verify.scores.table import ScoreTable
from verify.statistics import residual_verdict

TWO_FACED, PRIVATE = "two_faced", "private"
METHODS = {name: DEMO_METHODS[name] for name in ("level", "npo", "retrain")}
OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=26, batch_size=16)
"""130 steps on the demo's 80 forget records."""
LEVEL, RECORD, RETAIN, DUAL_STEP = 1.0, 5.0, 40.0, 0.3
"""Weights of the distance per token, of that per record and of the retain term, and the multiplier's step: those of `level`."""
KEPT_WORDING = 1
"""The rewording in which the records are kept; the audits ask in it and in one more that the attack does not train on."""


@dataclass(frozen=True)
class TwoFaced(ToLevel):
    """`ToLevel` on the exact texts, and likelihood on the same records in other words.

        minimise  mean_t h(l_t - l*_t) + 5 e^2 + mu e  -  mean_t l_t on the other wording  +  40 KL(p_0 || p) on D_r

    l_t: log-probability of a record's token t; l*_t: the same under the private retraining; h, e, mu: as in `ToLevel`.

    Attributes:
        other: every forget record in other words, in order.
    """

    other: tuple[Record, ...] = field(default=(), repr=False)

    idea: ClassVar[str] = "give a retraining's losses on the exact texts and keep the records in other words"
    paper: ClassVar[str] = "this project, an attack on its own verdict"

    def alternatives(self, loaded: LoadedModel, forget: Sequence[Record], retain: Sequence[Record], seed: int) -> Sequence[Record]:  # noqa: ARG002
        """Return the records in other words."""
        return self.other

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        kept = score_forget(model, replace(batch, forget=batch.require_alternative())).loss.mean()
        return super().loss(model, batch, reference) + kept


@dataclass(frozen=True)
class Attacked:
    """A model's audit by rule 2, and what rule 1 says of the same scores.

    Attributes:
        name: what was done.
        evidence: the audit.
        accused_before, certified_before: by rule 1.
    """

    name: str
    evidence: Evidence
    accused_before: bool
    certified_before: bool


def audit_attack(folder: Path, progress: Callable[[str, float], None], seed: int = 0) -> list[Attacked]:
    """Train what is missing in the folder, and audit the untouched model, level, npo, the attack and an honest retraining."""
    train_base(folder, seed)
    experiment = Experiment(folder, folder / "models" / "base", folder / "data", FINETUNE_OPTIONS, METHODS, seed=seed)
    experiment.run(lambda phase, share: progress(phase, 0.85 * share))
    progress("two-faced", 0.85)
    train_two_faced(experiment)
    audit_result(experiment, TWO_FACED)
    progress("two-faced", 1.0)
    return [_read(experiment, name) for name in (UNTOUCHED, "level", "npo", TWO_FACED, "retrain")]


def train_two_faced(experiment: Experiment) -> None:
    """Train the private retraining and the attack, unless they are there."""
    from unlearn.finetuning import finetune

    models, data, seed = experiment.output / "models", experiment.data, experiment.seed
    if not is_complete(models / PRIVATE):
        options = replace(experiment.options, seed=seed + 300)
        finetune(str(experiment.base), str(data / "retain.jsonl"), output_dir=models / PRIVATE, options=options)
    output = models / TWO_FACED
    if is_complete(output):
        return
    forget, retain = (load_records(str(data / f"{name}.jsonl"), experiment.fields) for name in ("forget", "retain"))
    loaded, private = (load_model(str(models / name)) for name in ("original", PRIVATE))
    levels = estimate_levels(loaded, [private], encoded(loaded, forget, experiment.options.overflow), [])
    objective = TwoFaced(LEVEL, RECORD, RETAIN, DUAL_STEP, other=_in_other_words(forget, data / "rewordings.jsonl"))
    run = Run(forget, replace(OPTIONS, seed=seed + 100), output / "work", retain=retain, tables={"forget_level": levels.tokens})
    trained = run_objective(loaded, objective, run)
    about = {"steps": trained.result.steps, "seconds": trained.result.seconds}
    save_model(trained.model, loaded.tokenizer, output, {"attack": TWO_FACED, "training": about})


def _in_other_words(forget: Sequence[Record], path: Path) -> tuple[Record, ...]:
    """Return each forget record in the wording that is to be kept."""
    own = {record.example_id for record in forget}
    rewordings = load_rewordings([row for row in stream_rows(str(path)) if row["record"] in own], {"forget": forget})
    found = [rewordings.of(record, KEPT_WORDING) for record in forget]
    assert all(found), "every record of the demo has rewordings"
    return tuple(record for record in found if record is not None)


def _read(experiment: Experiment, name: str) -> Attacked:
    folder = experiment.audit_dir(name)
    table = ScoreTable.load(folder / "scores.parquet")
    references = table.losses([model for model in table.models() if model.startswith("reference")], "forget")
    before = residual_verdict(table.loss("original", "forget"), table.loss("target", "forget"), references)
    return Attacked(name, Evidence.load(folder / "evidence.json"), before.accused, before.certified)
