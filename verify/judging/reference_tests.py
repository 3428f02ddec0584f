"""Tier B, the comparison with retrained references, as evidence: each test with its intermediate values, and accused records."""

from collections.abc import Mapping

import numpy as np

from verify.schema.parts import Quantity, RecordFinding, Test
from verify.scores.table import ScoreTable
from verify.statistics.residual import ResidualVerdict


def accused_records(table: ScoreTable, target: ResidualVerdict | None) -> tuple[RecordFinding, ...]:
    """Return the records found beyond the margin, worst first."""
    if target is None:
        return ()
    block = table.blocks["target", "forget"]
    test = target.record_test
    found = np.flatnonzero(test.accused)
    return tuple(
        RecordFinding(
            record=block.records[index],
            subject=block.subjects[index],
            residual=float(target.residual[index] / target.mean_gap) if target.mean_gap else 0.0,
            direction="remembered" if test.remembered[index] else "over-forgotten",
            adjusted_p=float(test.rejections.adjusted[index]),
        )
        for index in sorted(found, key=lambda index: -abs(target.residual[index]))
    )


def described_tests(target: ResidualVerdict, rests_on: Mapping[str, float] | None = None) -> tuple[Test, ...]:
    """Describe C1, C2, A1, A2 and, where there is one, A3 with all values needed to recompute them.

    Args:
        target: the tests.
        rests_on: numbers that all of them rest on, by name; None for those of a comparison with retrained references.
    """
    if rests_on is None:
        rests_on = {
            "N_mean_residual": target.mean_residual,
            "G_mean_gap": target.mean_gap,
            "s_M_spread_of_references": target.spread,
            "R_references": target.references,
            "K_records": target.records,
        }
    shared = _quantities(**rests_on)
    return (_c1(target, shared), _c2(target), _a1(target), _a2(target), *_a3(target))


def _quantities(**named: float) -> tuple[Quantity, ...]:
    return tuple(Quantity(name=name.replace("_", " "), value=float(value)) for name, value in named.items())


def _c1(target: ResidualVerdict, shared: tuple[Quantity, ...]) -> Test:
    mean = target.mean_test
    return Test(
        name="C1",
        question="Is the set's mean residual inside the margin, on both sides?",
        fired=mean.certified,
        quantities=shared + _quantities(t_above=mean.above, t_below=mean.below, must_be_below=-mean.certify_at),
    )


def _c2(target: ResidualVerdict) -> Test:
    spread = target.spread_test
    beyond: tuple[Quantity, ...] = ()
    if spread.beyond_noise is not None:
        beyond = _quantities(
            E_excess=spread.beyond_noise.excess,
            noise_of_controls=spread.beyond_noise.noise,
            standard_error=spread.beyond_noise.standard_error,
            degrees=spread.beyond_noise.degrees,
        )
    return Test(
        name="C2",
        question="Is the spread of the residuals inside twice the margin, so that the mean hides nothing?",
        fired=spread.certified,
        quantities=_quantities(upper_limit=spread.upper_limit, allowed=spread.allowed) + beyond,
    )


def _a1(target: ResidualVerdict) -> Test:
    mean = target.mean_test
    return Test(
        name="A1",
        question="Is the set's mean residual beyond the margin, on either side?",
        fired=mean.accused,
        quantities=_quantities(t_above=mean.above, t_below=mean.below, must_exceed=mean.accuse_at),
    )


def _a2(target: ResidualVerdict) -> Test:
    record = target.record_test
    tail = () if record.tail is None else _quantities(fitted_tail_degrees=record.tail.degrees, fitted_tail_scale=record.tail.scale)
    d0 = record.variances.prior_degrees
    return Test(
        name="A2",
        question="Is any single record's residual beyond the margin, corrected for their number?",
        fired=bool(record.accused.any()),
        quantities=_quantities(
            records_accused=record.accused.sum(),
            smallest_adjusted_p=record.rejections.adjusted.min(),
            level=record.rejections.level,
            prior_variance=record.variances.prior_variance,
            # An infinite prior means that all records share one variance; the schema holds finite numbers only.
            prior_degrees_or_minus_1=d0 if np.isfinite(d0) else -1.0,
        )
        + tail
        + (_quantities(noise_ratio=record.noise) if target.noise is not None else ()),
    )


def _a3(target: ResidualVerdict) -> tuple[Test, ...]:
    """Describe A3; empty where it does not apply."""
    test = target.subject_test
    if test is None:
        return ()
    return (
        Test(
            name="A3",
            question="Is any single subject's residual beyond the margin, corrected for their number?",
            fired=bool(test.accused.any()),
            quantities=_quantities(
                subjects=len(test.p_values),
                subjects_accused=test.accused.sum(),
                smallest_adjusted_p=test.rejections.adjusted.min(),
                level=test.rejections.level,
                noise_ratio=test.noise,
            ),
        ),
    )
