"""Of the models that a run passes through, the best: forgetful as one that never saw the records, and still of use.

A loss that is to be minimised does not know where to stop. So the model is looked at on the way: the forget set's mean loss tells
how much is remembered, the retain set's token probability what is left of its use. What is kept is the step

    argmin_t |level - l_t(D_f)|   over steps t with  u_t >= floor  and  l_t(D_f) <= level + (level - l_0(D_f)) / 20,
    u_t = exp(l_0(D_r) - l_t(D_r))

where `level` is the mean loss of never-trained records under the model before unlearning; without such records the step with the
largest l_t(D_f) is kept. A run ends when it has left these bounds and the next look finds it no nearer to them. Step 0 is a
candidate: where no step is both, the model is left as it was, and the result says so.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unlearn import processes
from unlearn.options import TrainingOptions
from unlearn.sharding import is_sharded, local, put
from unlearn.weights import mean_loss, sample
from verify.arguments import checked
from verify.errors import InputError
from verify.files import read_json, write_json
from verify.models import LoadedModel
from verify.records import Record

BEYOND = 1 / 20
"""Share of the way to the level by which a step may be beyond it."""
STATE = "selection.json"


@checked
@dataclass(frozen=True)
class Selection:
    """How the best step of an objective is chosen; it needs records to keep, and holdout records for the level.

    Attributes:
        select: whether the best step is the result; otherwise the last one is.
        utility_floor: share of the token probability on the records to keep that a result must have left.
        look_every: optimizer steps between two looks; 0 looks at the end of every epoch.
        look_records: at most so many records of each set are looked at, drawn by the seed. A look costs one forward pass over them.
    """

    select: bool = True
    utility_floor: float = 0.9
    look_every: int = 0
    look_records: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.utility_floor < 1:
            raise InputError(f"--utility-floor must lie between 0 and 1, got {self.utility_floor}.")
        if self.look_every < 0 or self.look_records < 1:
            raise InputError("--look-every must be 0 (at every epoch's end) or more, and --look-records at least 1.")


@dataclass(frozen=True)
class Look:
    """What one look saw.

    Attributes:
        step: optimizer steps done.
        forget_loss: mean loss of the forget records, nats per token.
        utility: share of the former token probability that the retain records have.
    """

    step: int
    forget_loss: float
    utility: float


class Selector:
    """Looks at a run, keeps its best step's trained weights in main memory, and knows when to end."""

    def __init__(self, selection: Selection, losses: Callable[[], tuple[float, float]], level: float | None) -> None:
        """Args: the settings; what gives forget and retain loss of the model as it is; the never-trained level, or None."""
        self.selection, self.losses, self.level = selection, losses, level
        self.looks: list[Look] = []
        self.best: Look | None = None
        self.stopped: str | None = None
        self._retain_before = 0.0
        self._weights: dict[str, Tensor] = {}
        self._kept_whole = True

    def begin(self, model: nn.Module) -> None:
        """Look at the model before the first step."""
        forget, self._retain_before = processes.agreed(self.losses())
        self.looks = [Look(0, forget, 1.0)]
        self._keep(model, self.looks[0])

    def consider(self, step: int, model: nn.Module) -> str | None:
        """Look at the model after a step, keep its weights if it is the best so far, and say whether to end."""
        forget, retain = processes.agreed(self.losses())
        before, now = self.looks[-1], Look(step, forget, math.exp(min(self._retain_before - retain, 700.0)))
        self.looks.append(now)
        if not self._outside(now) and self._distance(now) <= self._distance(self._best):
            self._keep(model, now)
        if self._outside(now) >= self._outside(before) > 0:
            self.stopped = self._why(now)
        return self.stopped

    def finish(self, step: int, model: nn.Module) -> None:
        """After the last step: look at it if nobody did, and put the best step's weights into the model."""
        if self.looks[-1].step != step:
            self.consider(step, model)
        for name, parameter in _trained(model).items():
            put(parameter, self._weights[name], self._kept_whole)
        self._weights = {}

    def facts(self) -> dict[str, Any]:
        """What was chosen and why, for the manifest; with a warning where nothing could be."""
        best, last = self._best, self.looks[-1]
        level = "the largest forget loss" if self.level is None else f"nearest the never-trained level {self.level:.3f}"
        why = f"step {best.step} of {last.step} has {level} with at least {self.selection.utility_floor:.0%} of the utility"
        if last is not best and self._outside(last):
            why += f"; at step {last.step} {self._why(last)}"
        found = {"selected_step": best.step, "why": why, "level": self.level, "looks": [asdict(look) for look in self.looks]}
        if best.step == 0:
            found["warning"] = (
                "no step forgot more and kept the utility, so the model was LEFT AS IT WAS. Take a lower --learning-rate, "
                "--look-every 1, a lower --utility-floor, or another method."
            )
        return found

    def save(self, folder: Path) -> None:
        """Put all that a resumed run needs into a checkpoint; every process calls this, and writes what it alone holds."""
        if processes.is_main():
            state = {
                "looks": [asdict(look) for look in self.looks],
                "best": asdict(self._best),
                "retain_before": self._retain_before,
                "stopped": self.stopped,
                "kept_whole": self._kept_whole,
            }
            write_json(folder / STATE, state)
        if processes.is_main() or not self._kept_whole:
            save_file(self._weights, folder / self._file())

    def resume(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        state: Mapping[str, Any] = read_json(folder / STATE)
        self.looks = [Look(**look) for look in state["looks"]]
        self.best, self.stopped = Look(**state["best"]), state["stopped"]
        self._retain_before, self._kept_whole = float(state["retain_before"]), bool(state["kept_whole"])
        self._weights = load_file(folder / self._file())

    def _file(self) -> str:
        return "selected.safetensors" if self._kept_whole else f"selected-{processes.rank()}.safetensors"

    @property
    def _best(self) -> Look:
        assert self.best is not None, "begin() comes first"
        return self.best

    def _distance(self, look: Look) -> float:
        return -look.forget_loss if self.level is None else abs(self.level - look.forget_loss)

    def _outside(self, look: Look) -> float:
        """How far a look is out of bounds; 0 within."""
        beyond = 0.0
        if self.level is not None:
            allowed = max(self.level - self.looks[0].forget_loss, 0.0) * BEYOND
            beyond = max(look.forget_loss - self.level - allowed, 0.0)
        return beyond + max(self.selection.utility_floor - look.utility, 0.0)

    def _why(self, look: Look) -> str:
        if look.utility < self.selection.utility_floor:
            return f"{look.utility:.0%} of the utility was left, below the floor of {self.selection.utility_floor:.0%}"
        return f"the forget loss {look.forget_loss:.3f} was beyond the never-trained level {self.level:.3f}"

    def _keep(self, model: nn.Module, look: Look) -> None:
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
    """What chooses the best step, where it is wanted and there are records to keep."""
    if selection is None or not selection.select or not keep:
        return None
    sets = [sample(records, selection.look_records, options.seed) for records in (forget, keep, holdout)]
    level = mean_loss(loaded, sets[2]) if sets[2] else None
    return Selector(selection, lambda: (mean_loss(loaded, sets[0]), mean_loss(loaded, sets[1])), processes.agreed(level))


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
