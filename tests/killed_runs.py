"""Runs that kill themselves at a given step, for processes of their own; started again without that, they end."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training_rows import make_rows
from transformers import TrainerCallback

import unlearn.training.saving
from unlearn import NPO, TrainingOptions, finetune, forget
from unlearn.methods.rollback import Rollback
from unlearn.training.options import Selection
from verify.training import replay

BEFORE_THE_MANIFEST = -1
"""As a step to be killed at: when the result is whole but for its manifest."""
OPTIONS = TrainingOptions(learning_rate=1e-3, batch_size=2, gradient_accumulation=2, save_steps=3, seed=5)


@dataclass(frozen=True)
class Ended:
    """What a run arrived at.

    Attributes:
        digest: of the final weights.
        steps: numbers of the steps that this process took itself.
        seconds: duration of the training.
        selected: the step whose weights were selected, if any was looked for.
    """

    digest: str
    steps: list[int]
    seconds: float = 0.0
    selected: int | None = None


class Kill(TrainerCallback):  # type: ignore[misc]
    """Counts the steps of a training and ends the process after one of them."""

    def __init__(self, at: int) -> None:
        self.at, self.steps = at, list[int]()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps.append(state.global_step)
        if state.global_step == self.at:
            kill_oneself()


def kill_oneself() -> None:
    """SIGKILL, which nothing can catch."""
    os.kill(os.getpid(), signal.SIGKILL)


def people(count: int) -> list[dict[str, Any]]:
    """Records to train on."""
    return [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(count)]


def trained(model: Path, output: Path, verb: str, epochs: int, kill_at: int = 0) -> Ended:
    """Fine-tune ("train") or unlearn with NPO ("forget")."""
    if kill_at == BEFORE_THE_MANIFEST:
        write = unlearn.training.saving.write_manifest

        def last(folder: Path, kind: str, about: Any) -> None:
            kill_oneself() if kind == "model" else write(folder, kind, about)

        unlearn.training.saving.write_manifest = last  # type: ignore[assignment]
    rows, options, kill = people(12), replace(OPTIONS, epochs=epochs), Kill(kill_at)
    if verb == "train":
        made = finetune(model, rows, output_dir=output, options=options, callbacks=[kill])
        return Ended(made.digest, kill.steps, made.result.seconds)
    sets = {"forget_set": rows[:6], "retain_set": rows[6:]}
    done = forget(model, NPO(), **sets, output_dir=output, options=options, callbacks=[kill])
    assert done.training is not None
    return Ended(done.digest_after, kill.steps, done.training.seconds)


def selected(model: Path, output: Path, kill_at: int = 0) -> Ended:
    """Unlearn with NPO, and keep the best step."""
    sets: dict[str, Any] = {"forget_set": make_rows("gone", 6), "retain_set": make_rows("kept", 8)}
    options, kill = replace(OPTIONS, learning_rate=1e-4, epochs=4), Kill(kill_at)
    how: dict[str, Any] = {"options": options, "callbacks": [kill], "selection": Selection(look_every=2)}
    done = forget(model, NPO(), **sets, output_dir=output, **how)
    return Ended(done.digest_after, kill.steps, selected=done.facts["selection"]["selected_step"])


def rolled_back(model: Path, base: Path, rows: list[dict[str, Any]], output: Path, kill_at: int = 0) -> Ended:
    """Roll back to before the fourth record; killed before a step of the replay, by its number in this process."""
    step, taken = replay._step, list[int]()

    def counted(*given: Any) -> Any:
        taken.append(len(taken) + 1)
        if len(taken) == kill_at:
            kill_oneself()
        return step(*given)

    replay._step = counted
    done = forget(model, Rollback(), forget_set=[rows[3]], data=rows, base=base, output_dir=output)
    return Ended(done.digest_after, taken)


def killed(run: Callable[[], object], place: object, name: str, call: int) -> bool:
    """Whether a process that runs this ends by SIGKILL, which it sends itself before the `call`-th call of a function."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    try:
        real, calls = getattr(place, name), []

        def counted(*given: Any, **named: Any) -> Any:
            calls.append(None)
            if len(calls) == call:
                kill_oneself()
            return real(*given, **named)

        setattr(place, name, counted)
        run()
    finally:
        os._exit(1)
