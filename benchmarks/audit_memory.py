"""Memory and time of an audit by its number of records: scoring ten models, the score table, judging, and judging it again.

    python benchmarks/audit_memory.py [--records 100000] [--models 10] [--attacks quick] [--cache] [--drawn] [--whole FOLDER]

Tiny random models and invented texts of about 60 tokens, half forget set, half controls; every stage's processor seconds and peak
memory. With `--drawn` the models' passes, which are no part of what is measured, give way to numbers drawn at random. With
`--whole` everything is one call of `verify.audit` on files, report included; an interrupted one goes on from the cache in FOLDER.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

MEBIBYTE = 2**20


def status(field: str) -> float:
    """Return a figure of this process from Linux's /proc, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def timed(name: str, run: Callable[[], Any], stages: dict[str, dict[str, float]]) -> Any:
    """Run one stage and note its processor seconds and its peak memory."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to the present memory
    started = time.process_time()
    result = run()
    stages[name] = {"seconds": time.process_time() - started, "peak": status("VmHWM"), "after": status("VmRSS")}
    print(f"{name}: {json.dumps({key: round(value, 1) for key, value in stages[name].items()})}", flush=True)
    return result


def texts(prefix: str, count: int, rng: np.random.Generator) -> list[Any]:
    """Invent records of about 30 tokens of their own words, four of each person."""
    from verify.data.records import Record

    words = ("the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "other", "animals")
    drawn = rng.integers(0, len(words), (count, 12))
    return [
        Record(
            f"{prefix}{number}",
            prompt=" ".join(words[index] for index in row[:5]) + f" {number}?",
            completion=" ".join(words[index] for index in row[5:]) + f" {number}.",
            subject_id=f"{prefix} person {number // 4}",
        )
        for number, row in enumerate(drawn)
    ]


def models(folder: Path, count: int) -> list[Path]:
    """Save tiny random models of different seeds."""
    from tiny_models import make_llama, make_tokenizer

    tokenizer, paths = make_tokenizer(), [folder / str(number) for number in range(count)]
    for seed, path in enumerate(paths):
        make_llama(tokenizer, seed).save_pretrained(path)
        tokenizer.save_pretrained(path)
    return paths


def drawn(model: Any, windows: Sequence[Any], *_: Any) -> Any:
    """Draw statistics in place of a model's pass, one window a record."""
    from verify.models.token_table import TokenTable

    table = TokenTable.empty([int(window.scored.sum()) for window in windows])
    rng = np.random.default_rng(int(next(model.parameters()).abs().sum() * 1000))
    table.columns["log_probability"][:] = -rng.exponential(2, table.bounds[-1])
    table.columns["mean"][:], table.columns["deviation"][:] = -2.0, 1.0
    table.columns["rank"][:] = rng.integers(0, 50, table.bounds[-1])
    table.columns["greedy"][:] = table.columns["rank"] == 0
    return table


def whole(folder: Path, chosen: argparse.Namespace, stages: dict[str, dict[str, float]]) -> None:
    """Audit in one call, from files of records to the report."""
    from verify import Settings, audit

    if not (folder / "records").is_dir():
        models(folder, chosen.models)
        (folder / "records").mkdir()
        rng = np.random.default_rng(0)
        for role in ("forget", "holdout"):
            with (folder / "records" / f"{role}.jsonl").open("w") as file:
                for record in texts(role, chosen.records // 2, rng):
                    row = {"example_id": record.example_id, "prompt": record.prompt, "completion": record.completion}
                    file.write(json.dumps({**row, "subject_id": record.subject_id}) + "\n")
    output, seen = folder / f"audit-{time.time_ns()}", dict[str, float]()

    def watch(phase: str, _: float) -> None:
        if phase not in seen:
            seen[phase] = status("VmHWM")
            print(f"{phase}: peak so far {seen[phase]:.0f} MiB", flush=True)

    run = partial(
        audit,
        folder / "2",
        folder / "1",
        base=folder / "0",
        references=[folder / str(number) for number in range(3, chosen.models)],
        forget_set=str(folder / "records" / "forget.jsonl"),
        holdout_set=str(folder / "records" / "holdout.jsonl"),
        settings=Settings(attacks=tuple(chosen.attacks), channels=("exact",)),
        cache_dir=folder / "cache",
        output_dir=output,
        progress=watch,
    )
    evidence = timed("whole audit", run, stages)
    sizes = ", ".join(f"{path.name} {path.stat().st_size / MEBIBYTE:.1f} MiB" for path in sorted(output.iterdir()))
    print(f"verdict {evidence.verdict}; {sizes}")


def main() -> None:
    """Run all stages and print a figure a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--attacks", nargs="+", default=["quick"])
    parser.add_argument("--cache", action="store_true")
    parser.add_argument("--drawn", action="store_true")
    parser.add_argument("--whole", type=Path)
    chosen = parser.parse_args()
    stages: dict[str, dict[str, float]] = {}

    import torch

    from verify import Settings
    from verify.attacks import select_attacks
    from verify.data.identity import RecordKey
    from verify.judging.protocol import Aside, judge
    from verify.scores import observe
    from verify.scores.scorer import Plan, Scorer
    from verify.scores.table import ScoreTable

    torch.set_num_threads(1)
    if chosen.drawn:
        observe.compute_token_statistics = drawn  # type: ignore[assignment]
    print(f"libraries loaded: {status('VmRSS'):.0f} MiB")
    if chosen.whole:
        whole(chosen.whole, chosen, stages)
        return
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), np.random.default_rng(0)
        paths = models(folder, chosen.models)
        half = chosen.records // 2
        sets = timed("records", lambda: {role: texts(role, half, rng) for role in ("forget", "holdout")}, stages)
        attacks = select_attacks(chosen.attacks)
        cache = folder / "cache" if chosen.cache else None
        scorer = Scorer(sets, attacks, Settings(), None, cache, RecordKey(b"k" * 32))
        roles = ["base", "original", "target", *["reference"] * (chosen.models - 3)]
        labels = [role if role != "reference" else f"reference {number}" for number, role in enumerate(roles, -2)]
        plans = [Plan(label, role, path) for label, role, path in zip(labels, roles, paths, strict=True)]
        for plan in plans:
            timed(f"score {plan.label}", partial(scorer.score, plan, lambda _: None), stages)
        timed("compare", scorer.compare, stages)
        table, saved = ScoreTable(scorer.blocks), folder / "scores.parquet"
        timed("save", partial(table.save, saved), stages)
        print(f"scores.parquet: {saved.stat().st_size / MEBIBYTE:.0f} MiB")
        if cache:
            written = sum(path.stat().st_size for path in cache.iterdir())
            print(f"cache: {written / chosen.models / chosen.records:.0f} bytes a record and model")
        timed("judge", partial(judge, table, Settings(), Aside()), stages)
        table = timed("load", partial(ScoreTable.load, saved), stages)
        timed("judge again", partial(judge, table, Settings(), Aside()), stages)
        print(f"peak of all stages: {max(stage['peak'] for stage in stages.values()):.0f} MiB")


if __name__ == "__main__":
    main()
