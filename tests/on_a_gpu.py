"""What tests on a GPU share: records, a step, and computing as on a machine with or without one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from unlearn import TrainingOptions
from unlearn.methods import method_classes
from unlearn.training.method import Objective

ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU, or it was not asked for: make test-gpu")
ROWS = [
    {"example_id": f"r{n}", "subject_id": f"s{n % 6}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 37}."}
    for n in range(24)
]
ONE_STEP = TrainingOptions(learning_rate=1e-4, max_steps=1, batch_size=4)
OBJECTIVES = [name for name, kind in method_classes().items() if isinstance(kind(), Objective)]


@contextmanager
def computing_on(device: str) -> Iterator[None]:
    """Compute as on a machine with or without a GPU."""
    with pytest.MonkeyPatch.context() as patched:
        if device == "cpu":
            patched.setattr(torch.cuda, "is_available", lambda: False)
        yield


def on_both(run: Callable[[str], Any]) -> tuple[Any, Any]:
    """Return what a run gives on the processor and on the GPU, in this order; it is given the device's name."""
    found = []
    for device in ("cpu", "cuda"):
        with computing_on(device):
            found.append(run(device))
    return found[0], found[1]
