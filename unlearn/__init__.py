"""Remove records from fine-tuned language models: fine-tune with a memory, forget by any method, hand the rest to `verify`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import verify.models.adapter_types  # noqa: F401 - first of all: the trainer of transformers imports PEFT, and that imports bitsandbytes

if TYPE_CHECKING:
    from unlearn.defenses.differential_privacy import DifferentialPrivacy
    from unlearn.defenses.federated import Federated
    from unlearn.experiments.poisoning import Planting, Trigger, plant, privacy_backdoor
    from unlearn.finetuning import FinetuneResult, finetune
    from unlearn.forgetting import ForgetResult, forget
    from unlearn.methods.altpo import AltPO
    from unlearn.methods.auto import Auto
    from unlearn.methods.bad_teacher import BadTeacher
    from unlearn.methods.calibrated_distillation import CalibratedDistillation
    from unlearn.methods.ceu import CEU
    from unlearn.methods.client_retrain import ClientRetrain
    from unlearn.methods.dpo import DPO
    from unlearn.methods.federaser import FedEraser
    from unlearn.methods.fisher import Fisher
    from unlearn.methods.flat import FLAT
    from unlearn.methods.grad_ascent_kl import GradAscentKL
    from unlearn.methods.grad_diff import GradDiff
    from unlearn.methods.gradient_ascent import GradientAscent
    from unlearn.methods.jensun import JensUn
    from unlearn.methods.level import Level
    from unlearn.methods.llmu import LLMU
    from unlearn.methods.lora_negation import LoraNegation
    from unlearn.methods.negmerge import NegMerge
    from unlearn.methods.npo import NPO
    from unlearn.methods.pdu import PDU
    from unlearn.methods.retrain import Retrain
    from unlearn.methods.rmu import RMU
    from unlearn.methods.rollback import Rollback
    from unlearn.methods.satimp import SatImp
    from unlearn.methods.scrub import SCRUB
    from unlearn.methods.shard_vectors import ShardVectors
    from unlearn.methods.simnpo import SimNPO
    from unlearn.methods.sisa import SISA
    from unlearn.methods.ssd import SSD
    from unlearn.methods.task_vector import TaskVector
    from unlearn.methods.ties import Ties
    from unlearn.methods.undial import UNDIAL
    from unlearn.methods.wga import WGA
    from unlearn.pool.table import make_level_table
    from unlearn.training.options import GradientOptions, Selection, TrainingOptions
    from unlearn.training.shards import ShardPlan, finetune_shards

_HOME = {
    "AltPO": "unlearn.methods.altpo",
    "Auto": "unlearn.methods.auto",
    "BadTeacher": "unlearn.methods.bad_teacher",
    "CEU": "unlearn.methods.ceu",
    "CalibratedDistillation": "unlearn.methods.calibrated_distillation",
    "ClientRetrain": "unlearn.methods.client_retrain",
    "DPO": "unlearn.methods.dpo",
    "DifferentialPrivacy": "unlearn.defenses.differential_privacy",
    "FLAT": "unlearn.methods.flat",
    "FedEraser": "unlearn.methods.federaser",
    "Federated": "unlearn.defenses.federated",
    "FinetuneResult": "unlearn.finetuning",
    "Fisher": "unlearn.methods.fisher",
    "ForgetResult": "unlearn.forgetting",
    "GradAscentKL": "unlearn.methods.grad_ascent_kl",
    "GradDiff": "unlearn.methods.grad_diff",
    "GradientAscent": "unlearn.methods.gradient_ascent",
    "GradientOptions": "unlearn.training.options",
    "JensUn": "unlearn.methods.jensun",
    "LLMU": "unlearn.methods.llmu",
    "Level": "unlearn.methods.level",
    "LoraNegation": "unlearn.methods.lora_negation",
    "NPO": "unlearn.methods.npo",
    "NegMerge": "unlearn.methods.negmerge",
    "PDU": "unlearn.methods.pdu",
    "RMU": "unlearn.methods.rmu",
    "Retrain": "unlearn.methods.retrain",
    "Planting": "unlearn.experiments.poisoning",
    "Rollback": "unlearn.methods.rollback",
    "SCRUB": "unlearn.methods.scrub",
    "SISA": "unlearn.methods.sisa",
    "SSD": "unlearn.methods.ssd",
    "SatImp": "unlearn.methods.satimp",
    "Selection": "unlearn.training.options",
    "ShardPlan": "unlearn.training.shards",
    "ShardVectors": "unlearn.methods.shard_vectors",
    "SimNPO": "unlearn.methods.simnpo",
    "TaskVector": "unlearn.methods.task_vector",
    "Ties": "unlearn.methods.ties",
    "Trigger": "unlearn.experiments.poisoning",
    "TrainingOptions": "unlearn.training.options",
    "UNDIAL": "unlearn.methods.undial",
    "WGA": "unlearn.methods.wga",
    "finetune": "unlearn.finetuning",
    "finetune_shards": "unlearn.training.shards",
    "forget": "unlearn.forgetting",
    "make_level_table": "unlearn.pool.table",
    "plant": "unlearn.experiments.poisoning",
    "privacy_backdoor": "unlearn.experiments.poisoning",
}

__all__ = [
    "CEU",
    "DPO",
    "FLAT",
    "LLMU",
    "NPO",
    "PDU",
    "RMU",
    "SCRUB",
    "SISA",
    "SSD",
    "UNDIAL",
    "WGA",
    "AltPO",
    "Auto",
    "BadTeacher",
    "CalibratedDistillation",
    "ClientRetrain",
    "DifferentialPrivacy",
    "FedEraser",
    "Federated",
    "FinetuneResult",
    "Fisher",
    "ForgetResult",
    "GradAscentKL",
    "GradDiff",
    "GradientAscent",
    "GradientOptions",
    "JensUn",
    "Level",
    "LoraNegation",
    "NegMerge",
    "Planting",
    "Retrain",
    "Rollback",
    "SatImp",
    "Selection",
    "ShardPlan",
    "ShardVectors",
    "SimNPO",
    "TaskVector",
    "Ties",
    "TrainingOptions",
    "Trigger",
    "finetune",
    "finetune_shards",
    "forget",
    "make_level_table",
    "plant",
    "privacy_backdoor",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and transformers take seconds, and `--help` needs neither."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
