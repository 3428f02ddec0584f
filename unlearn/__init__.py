"""Remove records from fine-tuned language models: fine-tune with a memory, forget by any method, hand the rest to `verify`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearn.finetuning import FinetuneResult, finetune
    from unlearn.forgetting import ForgetResult, forget
    from unlearn.methods.grad_diff import GradDiff
    from unlearn.methods.gradient_ascent import GradientAscent
    from unlearn.methods.npo import NPO
    from unlearn.methods.retrain import Retrain
    from unlearn.methods.satimp import SatImp
    from unlearn.methods.simnpo import SimNPO
    from unlearn.methods.task_vector import TaskVector
    from unlearn.methods.wga import WGA
    from unlearn.options import TrainingOptions

_HOME = {
    "FinetuneResult": "unlearn.finetuning",
    "ForgetResult": "unlearn.forgetting",
    "GradDiff": "unlearn.methods.grad_diff",
    "GradientAscent": "unlearn.methods.gradient_ascent",
    "NPO": "unlearn.methods.npo",
    "SatImp": "unlearn.methods.satimp",
    "SimNPO": "unlearn.methods.simnpo",
    "WGA": "unlearn.methods.wga",
    "Retrain": "unlearn.methods.retrain",
    "TaskVector": "unlearn.methods.task_vector",
    "TrainingOptions": "unlearn.options",
    "finetune": "unlearn.finetuning",
    "forget": "unlearn.forgetting",
}

__all__ = [
    "NPO",
    "WGA",
    "FinetuneResult",
    "ForgetResult",
    "GradDiff",
    "GradientAscent",
    "Retrain",
    "SatImp",
    "SimNPO",
    "TaskVector",
    "TrainingOptions",
    "finetune",
    "forget",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and transformers take seconds, and `--help` needs neither."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
