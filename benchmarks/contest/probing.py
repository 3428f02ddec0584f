"""Robustness probes of a contest: every model is probed once, and the entries are compared by the numbers.

`verify.probe` would probe the original and the references again for each entry, which takes longer than all else.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contest.data import LLM_OPTIONS, SHORT_WORLD
from benchmarks.contest.judge import settings_for
from benchmarks.contest.place import Place
from benchmarks.contest.trials import ORIGINAL
from verify.data.sources import load_records
from verify.io.files import read_json, write_json
from verify.measures.robustness import Treatment, judge_treatment, recoveries, treated_losses
from verify.models.loading import load_model
from verify.probes import select_probes
from verify.probes.base import Material
from verify.provenance.training_history import learning_rate_of

SMALL: Sequence[str] = ("quantization", "relearning")
LLM: Sequence[str] = ()
LLM_SHORT: Sequence[str] = ("quantization",)
"""Probes on the small models, on a pretrained one, and on it for two cores; none named are all but the costliest."""
REFERENCES = 3
"""References that are probed, at most."""


def probe_model(place: Place, name: str, folder: Path) -> None:
    """Measure the losses of half B under every probe, and write them unless that is done.

    Args:
        place: the contest.
        name: of the file: an entry, the original or a reference.
        folder: of the model.
    """
    path = place.probed(name)
    with place.locked(f"probe-{name}"):
        if path.exists():
            return
        old = load_model(place.model(ORIGINAL))
        material = Material(
            load_records(place.data("judged")),
            load_records(place.data("retain")),
            old,
            place.seed,
            learning_rate_of(str(place.model(ORIGINAL))),
            load_model(place.base),
        )
        probes = select_probes(LLM_SHORT if place.world == SHORT_WORLD else LLM if place.world in LLM_OPTIONS else SMALL)
        losses, not_run = treated_losses(old if folder == place.model(ORIGINAL) else load_model(folder), material, probes)
        rows = [{"treatment": list(key), "losses": _written(values)} for key, values in losses.items()]
        write_json(path, {"losses": rows, "not_run": not_run})


def probed(place: Place, entry: str, target: Path) -> dict[str, Any]:
    """Probe an entry's model, and return how it differs from the references under every treatment.

    Returns:
        the area of excess recovery of each arm of relearning; residual and whether it is beyond the margin by treatment, for those
        that every model could take; and the reasons of the probes that were not run.
    """
    references = place.reference_names()[:REFERENCES]
    for name in (ORIGINAL, *references):
        probe_model(place, name, place.model(name))
    probe_model(place, entry, target)
    read = {"original": ORIGINAL, "target": entry} | {f"reference {number}": one for number, one in enumerate(references, 1)}
    losses, not_run = dict[str, Mapping[Treatment, NDArray[np.float64]]](), dict[str, str]()
    for label, name in read.items():
        content = read_json(place.probed(name))
        losses[label] = {(row["treatment"][0], row["treatment"][1]): _read(row["losses"]) for row in content["losses"]}
        not_run |= content["not_run"]
    losses = {label: {key: values for key, values in own.items() if key[0] not in not_run} for label, own in losses.items()}
    judged = [judge_treatment(losses, key, settings_for(place)) for key in losses["target"]]
    return {
        "relearning": {one.arm: one.area for one in recoveries(losses)},
        "probes": {
            f"{one.probe}: {one.treatment}": [None if one.residual is None else one.residual.value, one.accused] for one in judged
        },
        "probes_not_run": not_run,
    }


def _written(values: NDArray[np.float64]) -> list[float | None]:
    """Return losses as JSON has them, which knows no NaN."""
    return [float(value) if np.isfinite(value) else None for value in values]


def _read(values: list[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values])
