"""The results page of the re-execution benchmark."""

import os
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import torch

from benchmarks.reexecution.costs import Cost
from benchmarks.reexecution.run import Result
from benchmarks.reexecution.sampling import Sampled
from verify.statistics import clopper_pearson

TITLE = "# Re-execution of deletions"


def page(
    honest: Sequence[Result],
    dishonest: Sequence[Result],
    prepared: tuple[Sequence[Result], Sequence[Result]],
    sampled: Sequence[Sampled],
    costs: tuple[Sequence[Cost], Sequence[Cost]],
) -> str:
    """Write the page.

    Args:
        honest, dishonest: the runs.
        prepared: forgeries prepared in training, with the commitment trusted and executed from the base.
        sampled: detection by samples.
        costs: of shards, and of rollbacks.
    """
    refused = sum(not one.accepted for one in honest)
    accepted = sum(one.accepted for one in dishonest)
    machine = f"{datetime.now(UTC).date()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    return f"""{TITLE}

Made by `python -m benchmarks.reexecution --output DIR --honest {len(honest)} --dishonest {len(dishonest)}`; {machine}.
Llamas of 38,000 weights, 12 records, 4 to 24 steps; how
re-execution works, and against whom, is in [its document](../../docs/research/reexecution.md). Intervals are exact, 95 %.

- Honest deletions refused: {refused} of {len(honest)} {_interval(refused, len(honest))}.
- Dishonest ones accepted, all segments executed: {accepted} of {len(dishonest)} {_interval(accepted, len(dishonest))}.

{_honest_section(honest)}
{_dishonest_section(dishonest, *prepared)}
{_samples_section(sampled)}
## Tokens

Deletion and full proof of one record, as shares of the tokens of a retraining on the records that stay, with a commitment.

{_costs("16 shards of 4 slices, one of 192 people (sisa)", costs[0])}
{_costs("One pass with a state after every 1/20, by the step in which the record first stood (rollback)", costs[1])}
"""


def _honest_section(honest: Sequence[Result]) -> str:
    return f"""## Honest deletions

Every setting is drawn at random, independently of the others; the auditor's process is set to another number of threads than the
training's, and in a part of the runs kept states are removed before, or everything is executed from the base.

| setting | runs | refused |
| --- | --- | --- |
{_honest(honest)}
"""


def _dishonest_section(dishonest: Sequence[Result], trusted: Sequence[Result], executed: Sequence[Result]) -> str:
    return f"""## Dishonest deletions

The kind is drawn at random for every run, and so is the place: which state, bit, line, record. All are by an operator who rewrites
manifests and logs, but did not know in training whose records would be asked for. Found by: the first finding of each run.

| kind | runs | accepted | found by |
| --- | --- | --- | --- |
{_dishonest(dishonest)}

### Prepared in training

Who writes a commitment can write a false one. Here the training saw the forget record early, and its log, committed to before the
request, says that it stood in the last microbatch only. States that a commitment stands for are not executed again if the auditor
gives the date of a request that is younger (`--requested`); without it, or with `--from-base`, they are.

| commitment | runs | accepted |
| --- | --- | --- |
{_prepared("trusted, as older than the request", trusted)}
{_prepared("executed too", executed)}
"""


def _samples_section(sampled: Sequence[Sampled]) -> str:
    first = sampled[0]
    return f"""## Samples

A fresh training of {first.segments} segments that hides the forget record under another's hash in each of its passes:
{first.false} segments are false. Drawn: {first.draws:,} nonces, by hash. Executed: {first.executed} samples a row;
each was refused where, and only where, its draw held a false segment.

| segments executed | found, by the formula | drawn | executed: refused / foreseen |
| --- | --- | --- | --- |
{chr(10).join(map(_sampled, sampled))}
"""


def _interval(count: int, total: int) -> str:
    rate = clopper_pearson(count, total, 0.95)
    return f"[{100 * rate.low:.1f}, {100 * rate.high:.1f}] %"


def _honest(runs: Sequence[Result]) -> str:
    traits = Counter(trait for one in runs for trait in one.traits)
    refused = Counter(trait for one in runs for trait in one.traits if not one.accepted)
    return "\n".join(f"| {trait} | {count} | {refused[trait]} |" for trait, count in traits.most_common())


def _dishonest(runs: Sequence[Result]) -> str:
    lines = []
    for kind, count in sorted(Counter(one.kind for one in runs).items()):
        mine = [one for one in runs if one.kind == kind]
        found = Counter(one.said[0] if one.word != "refused" else "refused as input" for one in mine if one.said)
        said = ", ".join(f"{what} {times}" for what, times in found.most_common())
        lines.append(f"| {kind} | {count} | {sum(one.accepted for one in mine)} | {said} |")
    return "\n".join(lines)


def _prepared(how: str, runs: Sequence[Result]) -> str:
    return f"| {how} | {len(runs)} | {sum(one.accepted for one in runs)} |"


def _sampled(one: Sampled) -> str:
    drawn = f"{one.found / one.draws:.3f} {_interval(one.found, one.draws)}"
    return f"| {one.size} | {one.formula:.3f} | {drawn} | {one.refused} / {one.foreseen} of {one.executed} |"


def _costs(title: str, costs: Sequence[Cost]) -> str:
    rows = [f"| {one.where} | {one.deletion:.1%} | {one.proof:.1%} | {one.both:.1%} | {one.word} |" for one in costs]
    mean = sum(one.both for one in costs) / len(costs)
    return "\n".join(
        [
            f"### {title}",
            "",
            "| record in | deletion | proof | together | outcome |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            f"| mean of these | | | {mean:.1%} | |",
            "",
        ]
    )
