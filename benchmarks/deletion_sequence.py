"""Ten deletion requests in sequence, by exact and approximate methods.

    python -m benchmarks.deletion_sequence --output DIR

Fictitious people, one base model. `sisa` deletes from a sharded model, `retrain` from scratch, `npo` from the result of the
previous request. After every request: the verdict on everybody deleted so far, residual fraction, utility and cost. At the end the
sharded model is compared, byte by byte, with one trained without the ten. Writes `benchmarks/results/deletion_sequence.md` and
`.svg`; an interrupted run resumes.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from unlearn.experiments.demo import BASE_OPTIONS, FINETUNE_OPTIONS, write_data
from unlearn.finetuning import finetune
from unlearn.forgetting import forget
from unlearn.methods.npo import NPO
from unlearn.methods.retrain import Retrain
from unlearn.methods.sisa import SISA
from unlearn.training.options import TrainingOptions
from unlearn.training.shards import ShardPlan, finetune_shards
from verify import Evidence, Settings, audit
from verify.cli.console import progress_bar
from verify.io.files import MANIFEST, read_json, write_text
from verify.io.libraries import quiet_libraries
from verify.models.ensembles import WEIGHTS

RESULTS = Path(__file__).parent / "results"
REQUESTS, REFERENCES = 10, 4
SHARDED = dataclasses.replace(FINETUNE_OPTIONS, lora=True, lora_rank=16, lora_alpha=32)
PLAN = ShardPlan(shards=4, slices=2, combine="average", options=SHARDED)
NPO_OPTIONS = TrainingOptions(learning_rate=3e-3, epochs=20, batch_size=16, seed=100)
METHODS: dict[str, tuple[Any, TrainingOptions]] = {
    "sisa": (SISA(), TrainingOptions()),
    "npo": (NPO(alpha=3.0), NPO_OPTIONS),
    "retrain": (Retrain(), TrainingOptions()),
}


def done(folder: Path) -> bool:
    return (folder / MANIFEST).exists()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prepare(output: Path) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Make data, base, originals and references; return the records of each request, and everybody's."""
    if not (output / "config.json").exists():
        write_data(output, 0)
    people = lines(output / "data" / "forget.jsonl")
    subjects = list(dict.fromkeys(row["subject_id"] for row in people))[:REQUESTS]
    requests = [[row for row in people if row["subject_id"] == subject] for subject in subjects]
    everybody = lines(output / "data" / "train.jsonl")
    rest = [row for row in everybody if row["subject_id"] not in subjects]
    models = output / "models"
    if not done(models / "base"):
        base = {"tokenizer": str(output / "tokenizer"), "options": BASE_OPTIONS}
        finetune(str(output / "config.json"), str(output / "data" / "base.jsonl"), output_dir=models / "base", **base)
    if not done(models / "whole"):
        finetune(
            str(models / "base"), everybody, output_dir=models / "whole", options=dataclasses.replace(FINETUNE_OPTIONS, seed=1)
        )
    if not done(models / "sharded"):
        finetune_shards(models / "base", everybody, output_dir=models / "sharded", plan=PLAN)
    for number in range(REFERENCES):
        options = dataclasses.replace(FINETUNE_OPTIONS, seed=10 + number)
        if not done(models / f"whole-reference{number}"):
            finetune(str(models / "base"), rest, output_dir=models / f"whole-reference{number}", options=options)
        plan = dataclasses.replace(PLAN, options=dataclasses.replace(SHARDED, seed=10 + number))
        if not done(models / f"sharded-reference{number}"):
            finetune_shards(models / "base", rest, output_dir=models / f"sharded-reference{number}", plan=plan)
    return requests, everybody


def step(output: Path, name: str, number: int, requests: list[list[dict[str, Any]]], everybody: list[dict[str, Any]]) -> Evidence:
    """Delete the next person's records, and audit everything deleted so far."""
    models, kind = output / "models", "sharded" if name == "sisa" else "whole"
    before = models / kind if number == 0 or name == "retrain" else models / f"{name}-{number}"
    folder, evidence = models / f"{name}-{number + 1}", output / "audits" / f"{name}-{number + 1}"
    gone = [row for request in requests[: number + 1] for row in request]
    asked = gone if name == "retrain" else requests[number]
    there = everybody if name == "retrain" else [row for row in everybody if row not in gone[: -len(asked)]]
    method, options = METHODS[name]
    if not done(folder):
        forget(before, method, forget_set=asked, data=there, base=models / "base", output_dir=folder, options=options)
    if not done(evidence):
        audit(
            folder,
            models / kind,
            references=[models / f"{kind}-reference{number}" for number in range(REFERENCES)],
            forget_set=gone,
            retain_set=[row for row in everybody if row["subject_id"] not in {row["subject_id"] for r in requests for row in r}],
            output_dir=evidence,
            settings=Settings(attacks=("quick",)),
            cache_dir=output / "cache",
        )
    return Evidence.load(evidence / "evidence.json")


def main() -> None:
    """Run everything that is missing, and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    quiet_libraries()
    rows: dict[str, list[tuple[Evidence, float]]] = {name: [] for name in METHODS}
    with progress_bar("preparing") as progress:
        requests, everybody = prepare(output)
        for index, (name, number) in enumerate((name, number) for name in METHODS for number in range(REQUESTS)):
            progress(f"{name}, request {number + 1}", index / (REQUESTS * len(METHODS)))
            found = step(output, name, number, requests, everybody)
            about = read_json(output / "models" / f"{name}-{number + 1}" / MANIFEST)["about"]
            rows[name].append((found, about["training"]["seconds"]))
    rest = [row for row in everybody if row not in [row for request in requests for row in request]]
    if not done(output / "models" / "sharded-fresh"):
        finetune_shards(output / "models" / "base", rest, output_dir=output / "models" / "sharded-fresh", plan=PLAN)
    last, fresh = output / "models" / f"sisa-{REQUESTS}", output / "models" / "sharded-fresh"
    same = all((last / path.relative_to(fresh)).read_bytes() == path.read_bytes() for path in fresh.rglob(WEIGHTS))
    write_text(RESULTS / "deletion_sequence.md", table(rows, same))
    write_text(RESULTS / "deletion_sequence.svg", draw(rows))
    print(table(rows, same))


def utility(evidence: Evidence) -> Any:
    return next(entry.ratio for entry in evidence.utility if entry.model == "target")


def table(rows: dict[str, list[tuple[Evidence, float]]], same: bool) -> str:
    """Format the results in Markdown, one row per request and method."""
    text = [
        "# Ten deletions in sequence",
        "",
        "Fictitious people (200, four records each), a small Llama; each verdict is on everybody deleted so far, against four",
        "references without the ten. `sisa`: 4 shards, 2 slices, averaged answers; judged against references trained in shards.",
        f"After the tenth request every adapter of `sisa` {'equals' if same else 'DIFFERS FROM'} that of training without the ten.",
        "",
        "| request | method | verdict | residual fraction | records beyond the margin | utility | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for number in range(REQUESTS):
        for name, found in rows.items():
            evidence, seconds = found[number]
            residual = "-" if evidence.residual is None else evidence.residual.short()
            cells = (
                str(number + 1),
                name,
                evidence.verdict,
                residual,
                str(len(evidence.accused)),
                utility(evidence).short(),
                f"{seconds:.1f}",
            )
            text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def draw(rows: dict[str, list[tuple[Evidence, float]]]) -> str:
    """Plot residual fraction and utility over the requests, as SVG."""
    import io

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, found), style in zip(rows.items(), ("o-", "s--", "D:"), strict=True):
        numbers = [number for number, (evidence, _) in enumerate(found, 1) if evidence.residual is not None]
        values = [evidence.residual for evidence, _ in found if evidence.residual is not None]
        spread = [[value.value - value.low for value in values], [value.high - value.value for value in values]]
        left.errorbar(numbers, [value.value for value in values], yerr=spread, fmt=style, label=name, capsize=2, markersize=4)
        kept = [utility(evidence).value for evidence, _ in found]
        right.plot(range(1, len(kept) + 1), kept, style, label=name, markersize=4)
    left.axhspan(-0.1, 0.1, color="0.92", zorder=0)
    left.set(xlabel="request", ylabel="residual fraction of all deleted so far")
    right.set(xlabel="request", ylabel="utility against retraining")
    left.legend(fontsize=8)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


if __name__ == "__main__":
    main()
