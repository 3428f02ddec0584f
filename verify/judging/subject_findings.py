"""A3 as evidence: subjects whose records together were found beyond the margin."""

import numpy as np

from verify.judging.user_level_claim import units
from verify.schema.channels import SubjectFinding
from verify.scores.table import ScoreTable
from verify.statistics.residual import ResidualVerdict
from verify.statistics.subjects import subject_means, subject_numbers


def accused_subjects(table: ScoreTable, target: ResidualVerdict | None) -> tuple[SubjectFinding, ...]:
    """Return the subjects found beyond the margin, worst first; empty where subjects were not tested by themselves."""
    if target is None or target.subject_test is None:
        return ()
    test, subjects = target.subject_test, units(table, "forget")
    numbers = subject_numbers(subjects)
    names, counts = np.unique(subjects), np.bincount(numbers)
    residual, gap = (subject_means(values, numbers) for values in (target.residual, target.gap))
    found = sorted(np.flatnonzero(test.accused).tolist(), key=lambda index: -abs(residual[index]))
    return tuple(
        SubjectFinding(
            subject=str(names[index]),
            records=int(counts[index]),
            residual=float(residual[index] / gap[index]) if gap[index] else 0.0,
            direction="remembered" if test.remembered[index] else "over-forgotten",
            adjusted_p=float(test.rejections.adjusted[index]),
        )
        for index in found
    )
