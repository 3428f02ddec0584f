"""unlearn: fine-tune with a training log, remove records from models, and answer deletion requests."""

import sys
from collections.abc import Sequence

from unlearn.cli.forget import forget_of
from verify.cli.dispatch import Command, run_program
from verify.io.libraries import quiet_imports

COMMANDS = {
    "demo": Command(
        "unlearn.cli.demo:Demo",
        "Train on invented people, remove some with six methods, audit every result, and delete one person with a proof.",
    ),
    "demo-llm": Command(
        "unlearn.cli.demo:LlmDemo",
        "Teach a pretrained language model invented people, forget one with five methods, and audit every result.",
    ),
    "fetch-model": Command(
        "unlearn.cli.demo:FetchModel",
        "Fetch SmolLM2-135M-Instruct, a small pretrained model, and convert it to a model folder (93 MB to download).",
    ),
    "train": Command("unlearn.cli.train:Train", "Fine-tune a model and log which records went into which step."),
    "forget": Command(forget_of, "Remove records from a fine-tuned model with one of the methods."),
    "methods": Command("unlearn.cli.demo:Methods", "List all methods with idea, paper, cost and requirements."),
    "plan-shards": Command("unlearn.cli.research:PlanShards", "Compute the expected cost of deletions for several shard layouts."),
    "sweep": Command(
        "unlearn.cli.research:SweepCommand",
        "Unlearn and audit a grid of methods and settings; resumable, with a table and a figure.",
    ),
    "reproduce": Command(
        "unlearn.cli.research:Reproduce",
        "Repeat a training or unlearning run from its manifest and compare the weights; exit status 0 if they agree, else 1.",
    ),
    "launch-config": Command(
        "unlearn.cli.research:LaunchConfig",
        "Print the path of a multi-GPU configuration for accelerate launch --config_file.",
    ),
    "scan": Command(
        "unlearn.cli.scan:Scan",
        "Find a person's training records and the models that saw them; prints rows and hashes, never texts.",
    ),
    "suppress": Command(
        "unlearn.cli.records:Suppress", "Add deleted records and the people they are about to the suppression list."
    ),
    "check-dataset": Command("unlearn.cli.records:CheckDataset", "Check data sets for records and people on the suppression list."),
    "replay-suppression": Command(
        "unlearn.cli.replay:ReplaySuppression",
        "Find what a restored backup brought back of everything that was deleted, and remove it again.",
    ),
    "request": Command(
        "unlearn.cli.requests:RequestCommand",
        "Handle deletion requests from receipt to signed certificate: add, approve, plan, run, close.",
    ),
    "purge": Command(
        "unlearn.cli.purge:Purge",
        "Find copies of deleted records in files and models, remove what may be removed, and list the rest with reasons.",
    ),
    "serve": Command(
        "unlearn.cli.serve:Serve", "Receive deletion requests over HTTP (OpenDSR 1.0), into the same ledger as the command line."
    ),
    "new-token": Command(
        "unlearn.cli.serve:NewToken",
        "Create a token for a caller of the HTTP service; it is shown once, and only its digest is stored.",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `unlearn` or `python -m unlearn` and return the exit status."""
    quiet_imports()
    try:
        return run_program("unlearn", __doc__ or "", COMMANDS, arguments)
    finally:
        distributed = sys.modules.get("unlearn.training.distributed")
        if distributed is not None:  # only a command that trained has joined a process group
            distributed.disconnect()


if __name__ == "__main__":
    sys.exit(main())
