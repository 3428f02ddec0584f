"""unlearn: fine-tune with a training log, remove records, answer deletion requests."""

import sys
from collections.abc import Sequence

from unlearn.cli.forget import forget_of
from verify.cli.dispatch import Command, run_program
from verify.io.libraries import quiet_imports

COMMANDS = {
    "demo": Command(
        "unlearn.cli.demo:Demo",
        "Invent people, train on them, remove some by six methods, and audit every result: about five minutes.",
    ),
    "train": Command("unlearn.cli.train:Train", "Fine-tune a model, and log which record went into which step."),
    "forget": Command(forget_of, "Remove records from a fine-tuned model by one of the methods."),
    "methods": Command("unlearn.cli.demo:Methods", "List every method: its idea, its paper, what it costs and needs."),
    "plan-shards": Command(
        "unlearn.cli.research:PlanShards", "Compute what deletions will cost, for several ways of training in shards."
    ),
    "sweep": Command(
        "unlearn.cli.research:SweepCommand",
        "Unlearn and audit many settings of many methods; resumable, with a table and a figure.",
    ),
    "reproduce": Command(
        "unlearn.cli.research:Reproduce",
        "Reproduce a result from its manifest and compare the weights; exit status 0 where they agree, else 1.",
    ),
    "launch-config": Command(
        "unlearn.cli.research:LaunchConfig",
        "Print the path of a configuration for several GPUs, for accelerate launch --config_file.",
    ),
    "scan": Command(
        "unlearn.cli.records:Scan",
        "Find the training records that a request means, and the models that saw them; prints rows and hashes, never texts.",
    ),
    "suppress": Command(
        "unlearn.cli.records:Suppress", "Put deleted records, and the people they are about, on the suppression list."
    ),
    "check-dataset": Command(
        "unlearn.cli.records:CheckDataset", "Check whether a data set contains anything that was deleted before."
    ),
    "request": Command(
        "unlearn.cli.requests:RequestCommand",
        "Handle deletion requests from receipt to signed certificate: add, approve, plan, run, close.",
    ),
    "purge": Command(
        "unlearn.cli.purge:Purge", "Find residues of deleted records, remove what may be removed, and list the rest with reasons."
    ),
    "serve": Command(
        "unlearn.cli.purge:Serve", "Serve deletion requests over HTTP (OpenDSR 1.0), on the same ledger as the command line."
    ),
    "new-token": Command(
        "unlearn.cli.purge:NewToken",
        "Create a token for a caller of the HTTP service; it is shown once, and only its digest is stored.",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `unlearn` and `python -m unlearn`; returns the exit status."""
    quiet_imports()
    try:
        return run_program("unlearn", __doc__ or "", COMMANDS, arguments)
    finally:
        distributed = sys.modules.get("unlearn.training.distributed")
        if distributed is not None:  # a command that trained nothing has no process group to leave
            distributed.part()


if __name__ == "__main__":
    sys.exit(main())
