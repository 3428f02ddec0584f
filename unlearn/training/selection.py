"""Checkpoint selection: keep the step closest to the never-trained level above a utility floor.

Minimising a loss does not say where to stop. The model is therefore evaluated during the run: the mean loss on the forget set
measures what is remembered, the token probability on the retain set what utility is left. The step that is kept is

    argmin_t |level - l_t(D_f)|   over steps t with  u_t >= floor  and  l_t(D_f) <= level + (level - l_0(D_f)) / 20,
    u_t = exp(l_0(D_r) - l_t(D_r))

where `level` is the mean loss of never-trained records under the model before unlearning; without such records the step with the
largest l_t(D_f) is kept. A run ends when it is out of these bounds and the next evaluation finds it no nearer to them. Step 0 is a
candidate: if no later step qualifies, the model is left unchanged, and the result says so.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unlearn.training import distributed
from unlearn.training.options import Selection, TrainingOptions
from unlearn.training.weights import mean_loss, sample
from verify.data.records import Record
from verify.io.files import read_json, write_json
from verify.models.loading import LoadedModel
from verify.training.sharding import is_sharded, local, put

BEYOND = 1 / 20
"""Share of the distance from the initial loss to the level by which a step may exceed the level."""
STATE = "selection.json"


@dataclass(frozen=True)
class Look:
    """Measurements of one evaluation.

    Attributes:
        step: optimizer steps done.
        forget_loss: mean loss of the forget records, nats per token.
        utility: token probability of the retain records, as a share of that before unlearning.
    """

    step: int
    forget_loss: float
    utility: float


class Selector:
    """Evaluates a run, keeps the best step's trained weights in main memory, and decides when to stop."""

    def __init__(self, selection: Selection, losses: Callable[[], tuple[float, float]], level: float | None) -> None:
        """Set up a selector.

        Args:
            selection: the settings.
            losses: computes forget and retain loss of the model at the time, nats per token.
            level: the never-trained level, or None.
        """
        self.selection, self.losses, self.level = selection, losses, level
        self.looks: list[Look] = []
        self.best: Look | None = None
        self.stopped: str | None = None
        self._retain_before = 0.0
        self._weights: dict[str, Tensor] = {}
        self._kept_whole = True

    def begin(self, model: nn.Module) -> None:
        """Evaluate the model before the first step."""
        forget, self._retain_before = distributed.agreed(self.losses())
        self.looks = [Look(0, forget, 1.0)]
        self._keep(model, self.looks[0])

    def consider(self, step: int, model: nn.Module) -> str | None:
        """Evaluate the model after a step, keep its weights if it is the best so far, and return why to stop, or None."""
        forget, retain = distributed.agreed(self.losses())
        utility = math.exp(min(self._retain_before - retain, 700.0))  # e^710 overflows
        before, now = self.looks[-1], Look(step, forget, utility)
        self.looks.append(now)
        # Ties go to the later step.
        if not self._outside(now) and self._distance(now) <= self._distance(self._best):
            self._keep(model, now)
        # Out of bounds twice in a row, and no nearer to them: further steps would lead away.
        if self._outside(now) >= self._outside(before) > 0:
            self.stopped = self._why(now)
        return self.stopped

    def finish(self, step: int, model: nn.Module) -> None:
        """Evaluate the last step if necessary, and load the best step's weights into the model."""
        if self.looks[-1].step != step:
            self.consider(step, model)
        for name, parameter in _trained(model).items():
            put(parameter, self._weights[name], self._kept_whole)
        self._weights = {}

    def facts(self) -> dict[str, Any]:
        """Report what was selected and why, for the manifest, with a warning where nothing could be."""
        best, last = self._best, self.looks[-1]
        level = "the largest forget loss" if self.level is None else f"nearest the never-trained level {self.level:.3f}"
        why = f"step {best.step} of {last.step} has {level} with at least {self.selection.utility_floor:.0%} of the utility"
        if last is not best and self._outside(last):
            why += f"; at step {last.step} {self._why(last)}"
        found = {"selected_step": best.step, "why": why, "level": self.level, "looks": [asdict(look) for look in self.looks]}
        if best.step == 0:
            found["warning"] = (
                "no step forgot more and kept the utility, so the model was left unchanged. Use a lower --learning-rate, "
                "--look-every 1, a lower --utility-floor, or another method."
            )
        return found

    def save(self, folder: Path) -> None:
        """Save the state that a resumed run needs into a checkpoint; every process calls this and writes its own shard."""
        if distributed.is_main():
            state = {
                "looks": [asdict(look) for look in self.looks],
                "best": asdict(self._best),
                "retain_before": self._retain_before,
                "stopped": self.stopped,
                "kept_whole": self._kept_whole,
            }
            write_json(folder / STATE, state)
        if distributed.is_main() or not self._kept_whole:
            save_file(self._weights, folder / self._file())

    def resume(self, folder: Path) -> None:
        """Restore from a checkpoint."""
        state: Mapping[str, Any] = read_json(folder / STATE)
        self.looks = [Look(**look) for look in state["looks"]]
        self.best, self.stopped = Look(**state["best"]), state["stopped"]
        self._retain_before, self._kept_whole = float(state["retain_before"]), bool(state["kept_whole"])
        self._weights = load_file(folder / self._file())

    def _file(self) -> str:
        """Return the name of the file with the best step's weights; with a sharded model, each process has its own."""
        return "selected.safetensors" if self._kept_whole else f"selected-{distributed.rank()}.safetensors"

    @property
    def _best(self) -> Look:
        assert self.best is not None, "begin() comes first"
        return self.best

    def _distance(self, look: Look) -> float:
        """Return the distance to the level, or without one the negative forget loss; the smallest is best."""
        return -look.forget_loss if self.level is None else abs(self.level - look.forget_loss)

    def _outside(self, look: Look) -> float:
        """Return how far an evaluation is out of bounds, nats plus share of utility; 0 within them."""
        beyond = 0.0
        if self.level is not None:
            # No allowance where the model starts above the level already.
            allowed = max(self.level - self.looks[0].forget_loss, 0.0) * BEYOND
            beyond = max(look.forget_loss - self.level - allowed, 0.0)
        return beyond + max(self.selection.utility_floor - look.utility, 0.0)

    def _why(self, look: Look) -> str:
        """Say which bound an evaluation violates."""
        if look.utility < self.selection.utility_floor:
            return f"{look.utility:.0%} of the utility was left, below the floor of {self.selection.utility_floor:.0%}"
        return f"the forget loss {look.forget_loss:.3f} was beyond the never-trained level {self.level:.3f}"

    def _keep(self, model: nn.Module, look: Look) -> None:
        """Copy the trained weights to main memory as the best so far."""
        self.best = look
        self._kept_whole = not is_sharded(model)
        self._weights = {name: local(parameter) for name, parameter in _trained(model).items()}


def selector_of(
    loaded: LoadedModel,
    selection: Selection | None,
    forget: Sequence[Record],
    keep: Sequence[Record],
    holdout: Sequence[Record],
    options: TrainingOptions,
) -> Selector | None:
    """Build the selector, or return None if no selection is requested or there are no records to keep."""
    if selection is None or not selection.select or not keep:
        return None
    # Drawn once: evaluations are comparable only over the same records.
    sets = [sample(records, selection.look_records, options.seed) for records in (forget, keep, holdout)]
    level = mean_loss(loaded, sets[2]) if sets[2] else None
    return Selector(selection, lambda: (mean_loss(loaded, sets[0]), mean_loss(loaded, sets[1])), distributed.agreed(level))


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
