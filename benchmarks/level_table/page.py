"""The page of the level table's measurement: levels against full retrainings, audits by all rules, and what they cost."""

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter

import numpy as np

from benchmarks.level_table.audits import Audit, Judged, Truth
from benchmarks.level_table.costs import Costs
from benchmarks.level_table.tables import Row
from verify.statistics import clopper_pearson
from verify.statistics.estimate import Estimate

Counted = Mapping[str, Sequence[Audit]]
"""World -> its audits."""
CALIBRATED: tuple[Truth, ...] = ("honest", "a fifth of the records kept", "a fifth of the subjects kept")
ABOUT = {
    "people": "fictitious people of four records, a model of 0.2 million weights trained for 24 passes",
    "tofu": "40 TOFU authors of 10 records, a model of 0.2 million weights that was trained on other authors before",
    "smollm2": "120 fictitious people of four records, SmolLM2-135M with an adapter of rank 16 for eight passes in bfloat16, "
    "up to 13 adapters trained at once",
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
CALIBRATION = """
One target of each truth and forget set (number of sets: {sets}, of {people} subjects, in {worlds}); the same targets by every
judge, unless a cell says how many. Accused / certified in per cent, with exact 95 % intervals. The sets are disjoint and their
targets trained apart; those of one {shared} share its pool, and several requests of one set its target, so that the intervals of
small requests are too narrow.
"""
AUDITS = """
The verdict's defaults, rho* = 0.10 and alpha = 0.05, with every channel of the world. Of the table's gates only the positive
control is applied: where the rule does not accuse the untouched model, the table is *not used*. Rates in per cent with exact 95 %
intervals, as if audits were independent, which those of one pool and forget set are not. *true residual*: mean residual against
full retrainings, in g, lowest and highest. Rule 1 (exact texts) and rule 2 (all channels) judge with four full retrainings without
the set; rule 2 with those of its gates that need no planting. *agree*: the same of accused, certified, open by the table and by
rule 2.
"""
COSTS = """
Seconds of one thread, or of one GPU. *audit*: one pass of the deleted model over the exact texts of the request and the controls;
the original's numbers and the pool's are in the table. *with channels*: each further channel is a pass more. *pool*: the time of a
retraining, scaled by the records that its models are trained on, and the scoring. It has paid for itself when as many requests
were audited with it as the last columns say: against four references for each request, and against an exact retraining in place
of a cheap deletion (a quarter of a retraining) and its audit.
"""


def page(
    rows: Sequence[Row], regressed: Sequence[Row], audits: Counted, costs: Sequence[Costs], machine: str, missing: str = ""
) -> str:
    """Return the page; `machine` says where the models were trained, `missing` which of the worlds' models were not."""
    lines = [
        "# Level table: real models",
        "",
        _wrapped(f"Made by `python -m benchmarks.level_table page --output DIR`, after `train`. {machine}. {HEAD}"),
        *(["", _wrapped(missing)] if missing else []),
        "",
        "## Levels of models trained on a part, against full retrainings",
        "",
        _wrapped(LEVELS),
        *_levels(rows),
        *(["", "## More statistics of the same pass", "", _wrapped(REGRESSED), *_regressed(regressed)] if regressed else []),
        "",
        "## Calibration",
        *_calibration(audits),
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


def _calibration(audits: Counted) -> Iterator[str]:
    """Yield, for every world, how often each judge accuses and certifies one target of each truth and forget set."""
    for world, found in audits.items():
        one_each = [one for one in found if not one.number and one.truth in CALIBRATED]
        if not one_each:
            continue
        sets, worlds = len({(one.world, one.group) for one in one_each}), len({one.world for one in one_each})
        said = CALIBRATION.format(
            sets=sets,
            people=max(one.subjects for one in one_each),
            worlds="one world" if worlds == 1 else f"{worlds} worlds of other people, each with a pool of its own",
            shared="world",
        )
        judges = _judges(one_each)
        yield from ("", f"### {world}", "", _wrapped(said), "")
        yield f"| target | subjects asked | audits | {' | '.join(judges)} |"
        yield "| --- " * (3 + len(judges)) + "|"
        for truth, subjects in dict.fromkeys((one.truth, one.subjects) for one in one_each):
            chosen = [one for one in one_each if (one.truth, one.subjects) == (truth, subjects)]
            rates = (_both_rates([own for one in chosen if (own := judge(one))], len(chosen)) for judge in judges.values())
            yield f"| {truth} | {subjects} | {len(chosen)} | {' | '.join(rates)} |"


def _judges(audits: Sequence[Audit]) -> dict[str, Callable[[Audit], Judged | None]]:
    """Return the judges of some audits by their names in a table."""
    judges: dict[str, Callable[[Audit], Judged | None]] = {
        f"table, {pool}": partial(_of_pool, pool=pool) for pool in audits[0].tables
    }
    if any(one.second for one in audits):
        judges |= {"four references, rule 1": attrgetter("first"), "four references, rule 2": attrgetter("second")}
    return judges


def _of_pool(audit: Audit, pool: str) -> Judged | None:
    return audit.tables[pool]


def _both_rates(judged: Sequence[Judged], audits: int) -> str:
    """Return how many of some judgements accuse and certify, with their number where it differs from that of the audits."""
    accused, certified = (sum(getattr(one, name) for one in judged) for name in ("accused", "certified"))
    return f"{_per_cent(accused, len(judged))} / {_per_cent(certified, len(judged))}{_of_fewer(len(judged), audits)}"


def _of_fewer(judged: int, audits: int) -> str:
    """Return the number of judgements where there are fewer than audits, as where four references are missing."""
    return f" of {judged}" if judged < audits else ""


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
    for world, found in audits.items():
        for pool in found[0].tables if found else ():
            yield from ("", f"### {world}, {pool}", "")
            yield (
                "| target | subjects asked | audits | true residual | table: residual, mean and sd | accused | certified "
                "| not used | accused by | rule 1: accused | certified | rule 2: accused | certified | agree |"
            )
            yield "| --- " * 14 + "|"
            for truth, subjects in dict.fromkeys((one.truth, one.subjects) for one in found):
                chosen = [one for one in found if (one.truth, one.subjects) == (truth, subjects)]
                yield f"| {truth} | {subjects} | {len(chosen)} | {' | '.join(_rates(chosen, pool))} |"


def _rates(audits: Sequence[Audit], pool: str) -> Iterator[str]:
    """Yield the cells of audits of one kind."""
    known = [one.known for one in audits if not math.isnan(one.known)]
    yield f"{min(known):+.2f} .. {max(known):+.2f}{_of_fewer(len(known), len(audits))}" if known else "-"
    used = [table for one in audits if (table := one.tables[pool])]
    residuals = np.array([one.residual for one in used])
    yield f"{np.nanmean(residuals):+.3f}, {np.nanstd(residuals):.3f}" if used else "-"
    yield _per_cent(sum(one.accused for one in used), len(used))
    yield _per_cent(sum(one.certified for one in used), len(used))
    yield str(len(audits) - len(used))
    fired = Counter(test for one in used for test in one.tests)
    yield ", ".join(f"{test} {count}" for test, count in fired.most_common())
    for compared in ([one.first for one in audits if one.first], [one.second for one in audits if one.second]):
        fewer = _of_fewer(len(compared), len(audits)) if compared else ""
        yield _per_cent(sum(one.accused for one in compared), len(compared)) + fewer
        yield _per_cent(sum(one.certified for one in compared), len(compared)) + fewer
    both = [(table, one.second) for one in audits if (table := one.tables[pool]) and one.second]
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
