"""The page of the level table's measurement: levels against full retrainings, audits by both rules, and what they cost."""

import os
import platform
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from benchmarks.level_table.audits import Audit
from benchmarks.level_table.costs import Costs
from benchmarks.level_table.tables import Row
from verify.statistics import clopper_pearson
from verify.statistics.estimate import Estimate

Counted = Mapping[str, Sequence[Audit]]
"""World and pool -> its audits."""
ABOUT = {
    "people": "fictitious people of four records, a model of 0.2 million weights trained for 24 passes",
    "tofu": "TOFU authors of 20 records, a model of 0.2 million weights that was trained on other authors before",
    "smollm2": "the eight shortest records of TOFU authors, SmolLM2-135M with an adapter of rank 16 for four passes in bfloat16",
}
HEAD = """
Losses in nats per token; g is the mean gap of the channel between full retrainings and the original. The simulated audits are
in [level_table_simulated.md](level_table_simulated.md), what it all means in [Level
tables](../../docs/research/level_table.md).
"""
LEVELS = """
Honest target: a full retraining without a forget set. Predictor: the mean over the R models of a pool that never saw the
record's subject, or over the other full retrainings without the set. *raw bias*: predictor minus target, nats. *bias*, *error*
(root mean square): after the straight line that never-trained controls give, in g. *slope*: of the target on the predictor over
forget records, and over controls. 95 % intervals: bootstrap over subjects, models fixed.
"""
REGRESSED = "Exact text; the regression on controls has a coefficient for every statistic. Means by record."
AUDITS = """
The verdict's defaults, rho* = 0.10 and alpha = 0.05, with every channel of the world. Of the table's gates only the positive
control is applied: where the rule does not accuse the untouched model, the table is *not used*. Rates in per cent with exact 95 %
intervals, as if audits were independent, which those of one pool and forget set are not. *true residual*: mean residual against
full retrainings, in g, lowest and highest. Four references: rule 2 with four full retrainings without the set, and with those of
its gates that need no planting. *agree*: the same of accused, certified, open.
"""
COSTS = """
Seconds of one thread. *audit*: one pass of the deleted model over the exact texts of the request and the controls; the
original's numbers and the pool's are in the table. *with channels*: each further channel is a pass more. *pool*: the time of a
retraining, scaled by the records that its models are trained on, and the scoring. It has paid for itself when as many requests
were audited with it as the last columns say: against four references for each request, and against an exact retraining in place
of a cheap deletion (a quarter of a retraining) and its audit.
"""


def page(rows: Sequence[Row], regressed: Sequence[Row], audits: Counted, costs: Sequence[Costs]) -> str:
    """Return the page."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; one thread"
    lines = [
        "# Level table: real models",
        "",
        _wrapped(f"Made by `python -m benchmarks.level_table page --output DIR`, after `train`. {machine}. {HEAD}"),
        "",
        "## Levels of models trained on a part, against full retrainings",
        "",
        _wrapped(LEVELS),
        *_levels(rows),
        "",
        "## More statistics of the same pass",
        "",
        _wrapped(REGRESSED),
        *_regressed(regressed),
        "",
        "## Audits of models with known truth",
        "",
        _wrapped(AUDITS),
        *_audits(audits),
        "",
        "## Cost",
        "",
        _wrapped(COSTS),
        *_costs(costs),
    ]
    return "\n".join(lines) + "\n"


def _levels(rows: Sequence[Row]) -> Iterator[str]:
    for world in dict.fromkeys(row.world for row in rows):
        own = [row for row in rows if row.world == world]
        first = own[0].found
        yield from (
            "",
            f"### {world}",
            "",
            _wrapped(f"{ABOUT.get(world, world)}; {first.pairs} pairs, {first.subjects} subjects."),
            "",
        )
        yield (
            "| channel (g) | predictor | R | correlation: records | subjects | controls | slope: records; controls | raw bias "
            "| bias, g | error, g: records | subjects | controls |"
        )
        yield "| --- " * 12 + "|"
        for row in own:
            found = row.found
            cells = (
                f"{row.channel} ({row.gap:.2f})",
                row.predictor,
                str(row.models),
                _interval(found.correlation),
                _interval(found.correlation_subjects),
                _interval(found.control_correlation),
                f"{_interval(found.slope)}; {found.control_slope:.2f}",
                _interval(found.raw_bias),
                _interval(found.bias, 3),
                _interval(found.error, 3),
                _interval(found.error_subjects, 3),
                f"{found.control_error:.3f}",
            )
            yield f"| {' | '.join(cells)} |"


def _regressed(rows: Sequence[Row]) -> Iterator[str]:
    yield from ("", "| world | pool | regressed on | bias, g | error, g: records | subjects | controls |", "| --- " * 7 + "|")
    for row in rows:
        found = row.found
        numbers = (
            _interval(found.bias, 3),
            _interval(found.error, 3),
            _interval(found.error_subjects, 3),
            f"{found.control_error:.3f}",
        )
        yield f"| {row.world} | {row.predictor} | {row.channel} | {' | '.join(numbers)} |"


def _audits(audits: Counted) -> Iterator[str]:
    for title, found in audits.items():
        yield from ("", f"### {title}", "")
        yield (
            "| target | subjects asked | audits | true residual | table: residual, mean and sd | accused | certified | not used "
            "| accused by | references: accused | certified | agree |"
        )
        yield "| --- " * 12 + "|"
        for truth, subjects in dict.fromkeys((one.truth, one.subjects) for one in found):
            chosen = [one for one in found if (one.truth, one.subjects) == (truth, subjects)]
            yield f"| {truth} | {subjects} | {len(chosen)} | {' | '.join(_rates(chosen))} |"


def _rates(audits: Sequence[Audit]) -> Iterator[str]:
    """Yield the cells of audits of one kind."""
    known = [one.known for one in audits]
    yield f"{min(known):+.2f} .. {max(known):+.2f}"
    used, compared = [one.table for one in audits if one.table], [one.references for one in audits if one.references]
    residuals = np.array([one.residual for one in used])
    yield f"{np.nanmean(residuals):+.3f}, {np.nanstd(residuals):.3f}" if used else "-"
    yield _per_cent(sum(one.accused for one in used), len(used))
    yield _per_cent(sum(one.certified for one in used), len(used))
    yield str(len(audits) - len(used))
    fired = Counter(test for one in used for test in one.tests)
    yield ", ".join(f"{test} {count}" for test, count in fired.most_common())
    yield _per_cent(sum(one.accused for one in compared), len(compared))
    yield _per_cent(sum(one.certified for one in compared), len(compared))
    both = [(one.table, one.references) for one in audits if one.table and one.references]
    alike = sum((table.accused, table.certified) == (other.accused, other.certified) for table, other in both)
    yield f"{alike} of {len(both)}"


def _costs(costs: Sequence[Costs]) -> Iterator[str]:
    yield ""
    yield (
        "| world | records | retraining, s | pool | pool, retrainings | subjects asked | audit, s | of a retraining "
        "| with channels | paid for against references | against retrainings |"
    )
    yield "| --- " * 11 + "|"
    for one in costs:
        cells = (
            one.world,
            str(one.records),
            f"{one.retraining:.1f}",
            one.pool,
            f"{one.pool_seconds / one.retraining:.1f}",
            str(one.subjects),
            f"{one.audit:.2f}",
            f"{100 * one.audit / one.retraining:.1f} %",
            f"{100 * one.audit * one.channels / one.retraining:.1f} %",
            str(one.pays_against_references),
            str(one.pays_against_retrainings),
        )
        yield f"| {' | '.join(cells)} |"


def _interval(estimate: Estimate, digits: int = 2) -> str:
    low, high = f"{estimate.low:.{digits}f}", f"{estimate.high:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{low}, {high}]"


def _per_cent(hits: int, count: int) -> str:
    if not count:
        return "-"
    rate = clopper_pearson(hits, count, 0.95)
    return f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(" ".join(paragraph.split()), 120, break_on_hyphens=False, break_long_words=False)
