"""Robustness probes applied alike to the unlearned model, the original and the retrained references.

A probe recovers something from every model. What counts is how much more it recovers from the unlearned model than from honest
retrainings, so each treatment is judged by the same test as the untreated models (`verify.statistics.residual`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.auditing.audit_sets import load_sets
from verify.data.identity import RecordKey, set_digest
from verify.data.records import Fields, Record, RecordSource
from verify.errors import InputError
from verify.io.arguments import checked
from verify.models.loading import LoadedModel, load_model, require_same_tokenizer
from verify.models.memory import require_memory_for_loading
from verify.probes import select_probes
from verify.probes.base import Material, ProbeNotRunError, mean_losses
from verify.provenance.training_history import learning_rate_of
from verify.schema.attack_results import NotRun
from verify.schema.parts import Value
from verify.schema.robustness import OTHER_RECORDS, Recovery, RetainHarm, Robustness, Treated
from verify.schema.settings import Settings
from verify.statistics.residual import residual_verdict
from verify.statistics.roc import membership_auc

Array = NDArray[np.float64]
Treatment = tuple[str, str]
"""The names of a probe and of one of its treatments; (UNTREATED, UNTREATED) for untreated models."""
Losses = Mapping[str, Mapping[Treatment, Array]]
"""Mean losses of the forget records, nats per token [N], by model label and treatment."""
UNTREATED = "untreated"
ARMS = {
    "relearned": "other records",
    "relearned on unrelated text": "unrelated text",
    "relearned on other subjects": "other subjects",
}
"""Arms of relearning, by the beginnings of their treatments' names."""


@dataclass(frozen=True, eq=False)
class _Measured:
    """Measurements of one model.

    Attributes:
        digest, configuration: digests of its weights, and of the configuration that decides what they compute.
        losses: mean losses of the forget records, nats per token [N], by treatment.
        retain_auc: AUC of the loss attack, retain records against never-trained ones; None without a holdout set.
        not_run: reasons of the probes that could not treat it, by name.
    """

    digest: str
    configuration: str
    losses: Mapping[Treatment, Array]
    retain_auc: Value | None
    not_run: Mapping[str, str]


@checked
def probe(
    model: Any,
    original: Any,
    references: Sequence[Any],
    *,
    forget_set: RecordSource,
    retain_set: RecordSource | None = None,
    holdout_set: RecordSource | None = None,
    data: RecordSource | None = None,
    base: Any = None,
    fields: Fields | None = None,
    tokenizer: Any = None,
    probes: Sequence[str] = (),
    settings: Settings | None = None,
    output: str | Path | None = None,
    progress: Callable[[str, float], None] = lambda *_: None,
) -> Robustness:
    """Apply every probe to every model and judge the residual under each treatment.

    Args:
        model: the unlearned model: a folder, a Hub name, or a model in memory with `tokenizer`.
        original: the model before unlearning.
        references: models trained without the forget set, at least two.
        forget_set: the records that were to be removed, or a list of ids if `data` is given.
        retain_set: records that were kept, used for relearning and for prefixes, which never use the forget set. The default is
            the rest of `data`.
        holdout_set: records that no model was trained on, to measure the effect of unlearning on the retain records.
        data: the file the original was trained on.
        base: the model before fine-tuning, for interpolation back to it.
        fields, tokenizer: as for `verify.audit`.
        probes: names of the probes, or FILE.py:CLASS for one of your own; by default all but the costliest (`select_probes`).
        settings: margin, alpha, seed and dtype; the default is the protocol's.
        output: a new JSON file, or None.
        progress: callback `(message, fraction_done)`.

    Returns:
        the residual under every treatment, excess recovery by relearning, and the effect on the retain records.

    Raises:
        InputError: records or models cannot be used, or there are fewer than two references.
    """
    settings, key = settings or Settings(), RecordKey.load()
    chosen = select_probes(probes)
    if len(references) < 2:
        raise InputError(f"probes need at least two retrained references, got {len(references)}. Name them with --references.")
    if output is not None and Path(output).exists():
        raise InputError(f"{output} exists. Name a new file with --output.")
    sets = load_sets(forget_set, retain_set, holdout_set, None, data, fields, settings, original)
    if "retain" not in sets:
        raise InputError("probes need retain records. Give them with --retain FILE, or the training file with --data FILE.")
    _require_memory([model, *references], held=[original] if base is None else [original, base], dtype=settings.dtype)
    old = load_model(original, tokenizer=tokenizer, dtype=settings.dtype)
    before = None if base is None else load_model(base, tokenizer=tokenizer, dtype=settings.dtype)
    material = Material(sets["forget"], sets["retain"], old, settings.seed, learning_rate_of(original), before)
    sources = {"original": old, "target": model} | {f"reference {number}": one for number, one in enumerate(references, 1)}
    models, not_run = _measure_all(sources, material, chosen, sets.get("holdout"), settings, tokenizer, progress)
    found = _judged(models, not_run, [key.of(record.fingerprint) for record in sets["forget"]], settings)
    if output is not None:
        found.save(output)
    return found


def _require_memory(sources: Sequence[Any], held: Sequence[Any], dtype: str) -> None:
    """Require that each model fits into memory together with those that are held throughout."""
    for source in sources:
        require_memory_for_loading(source, dtype, beside=held)


def _measure_all(
    sources: Mapping[str, Any],
    material: Material,
    chosen: Mapping[str, Any],
    holdout: Sequence[Record] | None,
    settings: Settings,
    tokenizer: Any,
    progress: Callable[[str, float], None],
) -> tuple[dict[str, _Measured], dict[str, str]]:
    """Load and measure one model after another; return what was measured by label, and why probes were not run, by name."""
    models, not_run = dict[str, _Measured](), dict[str, str]()
    for done, (label, source) in enumerate(sources.items()):
        progress(f"probing {label}", done / len(sources))
        loaded = load_model(source, tokenizer=tokenizer, dtype=settings.dtype)
        require_same_tokenizer([material.old, loaded])
        models[label] = _measure(loaded, material, chosen, holdout, settings)
        # A probe that cannot treat every model alike compares nothing, so it is not tried on the models that follow.
        not_run |= models[label].not_run
        chosen = {name: one for name, one in chosen.items() if name not in not_run}
    return models, not_run


def _judged(models: Mapping[str, _Measured], not_run: Mapping[str, str], forget: Sequence[str], settings: Settings) -> Robustness:
    """Judge every treatment that all models had; `forget` are the keyed hashes of the forget records."""
    losses = {label: {key: values for key, values in one.losses.items() if key[0] not in not_run} for label, one in models.items()}
    recovered = recoveries(losses)
    return Robustness(
        weights=models["target"].digest,
        forget=len(forget),
        forget_digest=set_digest(forget),
        margin=settings.margin,
        alpha=settings.alpha,
        treated=tuple(judge_treatment(losses, treatment, settings) for treatment in losses["target"]),
        recovery=next((one for one in recovered if one.arm == OTHER_RECORDS), None),
        retain=_harm(models),
        configuration=models["target"].configuration,
        other_recoveries=tuple(one for one in recovered if one.arm != OTHER_RECORDS),
        not_run=tuple(NotRun(attack=name, reason=reason) for name, reason in not_run.items()),
    )


def _measure(
    loaded: LoadedModel,
    material: Material,
    chosen: Mapping[str, Any],
    holdout: Sequence[Record] | None,
    settings: Settings,
) -> _Measured:
    """Measure one model, untreated and under every treatment."""
    losses, not_run = treated_losses(loaded, material, chosen)
    auc = None
    if holdout is not None:
        kept, unseen = mean_losses(loaded, material.other), mean_losses(loaded, holdout)
        auc = Value.of(membership_auc(-kept, -unseen, settings.confidence))
    return _Measured(loaded.digest, loaded.configuration, losses, auc, not_run)


def treated_losses(
    loaded: LoadedModel, material: Material, chosen: Mapping[str, Any]
) -> tuple[dict[Treatment, Array], dict[str, str]]:
    """Measure the losses of the forget records under a model, untreated and under every probe.

    Args:
        loaded: the model; its weights are bit-identical afterwards.
        material: the records and the model before unlearning.
        chosen: probes by name, as `select_probes` returns them.

    Returns:
        mean losses in nats per token [N] by treatment, and the reasons of the probes that could not treat the model, by name.
    """
    losses = {(UNTREATED, UNTREATED): mean_losses(loaded, material.forget)}
    not_run = {}
    for name, one in chosen.items():
        try:
            losses |= {(name, treatment): values for treatment, values in one.losses(loaded, material).items()}
        except ProbeNotRunError as error:
            not_run[name] = str(error)
    return losses, not_run


def _references(losses: Losses, key: Treatment) -> Array:
    """Return the losses of every reference under one treatment [R, N]."""
    return np.stack([values[key] for label, values in losses.items() if label.startswith("reference")])


def judge_treatment(losses: Losses, key: Treatment, settings: Settings) -> Treated:
    """Run the residual test under one treatment, relative to the original under the same treatment.

    Guiding the original by itself leaves it unchanged, which is the right baseline for that probe as well.

    Args:
        losses: losses of the original, the target and at least two references ("reference 1", ...).
        key: the treatment.
        settings: margin and alpha of the test.
    """
    scored = np.isfinite(losses["original"][key])  # a costly probe treats some of the records only
    original, target = losses["original"][key][scored], losses["target"][key][scored]
    references = _references(losses, key)[:, scored]
    verdict = residual_verdict(original, target, references, settings.margin, settings.alpha)
    # Where the original knows no more than the references under the treatment, there is nothing to be a share of.
    comparable = verdict.rho is not None and verdict.mean_gap > 0
    return Treated(
        probe=key[0],
        treatment=key[1],
        original=float(original.mean()),
        target=float(target.mean()),
        references=float(references.mean()),
        residual=Value.of(verdict.rho) if comparable and verdict.rho is not None else None,
        accused=comparable and verdict.accused,
        records=int(verdict.record_test.accused.sum()) if comparable else 0,
    )


def recoveries(losses: Losses) -> list[Recovery]:
    """Compute excess recovery under every arm of relearning; none where the original knows no more than the references.

    Args:
        losses: as for `judge_treatment`.
    """
    keys = [key for key in losses["target"] if key[0] == "relearning"]
    start = next((key for key in keys if key[1] == "relearned 0"), None)
    found = []
    for name, arm in ARMS.items():
        own = [key for key in keys if key[1].rpartition(" ")[0] == name]
        if start is None or not own:
            continue
        # No step is the same for every arm, so it is measured once.
        own = own if start in own else [start, *own]
        gap = float(_references(losses, start).mean() - losses["original"][start].mean())
        if gap <= 0:
            continue
        steps = tuple(int(treatment.rpartition(" ")[2]) for _, treatment in own)
        # [s_u(k) - s_ref(k)] / [s_0 - s_ref(0)] of the relearning probe; losses are -s, hence references less target.
        excess = [float(_references(losses, key).mean() - losses["target"][key].mean()) / gap for key in own]
        span = steps[-1] - steps[0]
        # Mean excess over the steps beyond that of step 0: what training added.
        area = float(np.trapezoid(np.array(excess) - excess[0], steps)) / span if span else 0.0
        found.append(Recovery(steps=steps, excess=tuple(excess), area=area, arm=arm))
    return found


def _harm(models: Mapping[str, _Measured]) -> RetainHarm | None:
    """Collect the AUCs of the retain records by model; None without a holdout set."""
    found = {label: one.retain_auc for label, one in models.items() if one.retain_auc is not None}
    if not found:
        return None
    references = tuple(value for label, value in found.items() if label.startswith("reference"))
    return RetainHarm(original=found["original"], target=found["target"], references=references)
