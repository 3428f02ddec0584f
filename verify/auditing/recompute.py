"""Recompute every number of a verdict from the per-record scores."""

from pathlib import Path
from typing import Any

from verify.errors import InputError, RunError
from verify.judging.copies import DISTINCT, ENOUGH
from verify.judging.level_table_gates import BY_LEVEL
from verify.judging.protocol import Aside, judge
from verify.schema.evidence import Evidence
from verify.scores.table import ScoreTable, audited_sets

TOLERANCE = 1e-9
"""Relative tolerance: another numpy version may sum in another order; a changed score moves numbers by far more."""

SENTENCES = frozenset({"explanation", "scope", "not_shown", "next_step", "reason", "question", "statistic"})
"""Fields that hold words. Other versions word them differently."""


def recompute(folder: str | Path) -> Evidence:
    """Judge an audit's `scores.parquet` again and return the evidence that follows from it.

    Settings, the blind baseline, the claim about hidden states, the canary counts of earlier deletions, the account of the controls
    and the facts about a level table are taken from `evidence.json`: they were decided beforehand, or need texts or states that are
    gone. The level table's numbers that the audit used are in `scores.parquet`. This cannot show which models were scored, that
    those numbers are the table's, or that the registration is the one that was sent; a certificate binds the files.

    Raises:
        InputError: a file is missing, damaged or of another version.
        RunError: a number or sentence in `evidence.json` does not follow from the scores; the message names the first few.
    """
    folder = Path(folder)
    if not (folder / "evidence.json").is_file():
        raise InputError(f"{folder} holds no evidence.json. Give the folder that `verify-unlearning audit` wrote.")
    evidence = Evidence.load(folder / "evidence.json")
    table = ScoreTable.load(folder / "scores.parquet")
    process = evidence.process
    aside = Aside(
        evidence.blind,
        evidence.blind_p,
        None if evidence.people is None else evidence.people.blind_p,
        None if process is None else process.commitment,
        () if process is None else process.batches[:-1],
        evidence.representation,
        evidence.channels_not_run or (),
        evidence.level_table,
        evidence.registration,
        evidence.account,
    )
    try:
        judged = judge(table, evidence.settings, aside)
    except (KeyError, ValueError) as error:
        raise InputError(f"{folder}: the scores do not fit the evidence ({type(error).__name__}). Run the audit again.") from None
    again = evidence.model_copy(update={**dict(judged), "sets": audited_sets(table)})
    found = differences(evidence.model_dump(), again.model_dump())
    if found and evidence.settings.rule == 3 and any(BY_LEVEL in gate.reason for gate in evidence.gates):
        raise RunError(
            f"{folder}: evidence.json names rule 3, and compares controls by level, which came with rule 4. A development version "
            "of 27 November 2026 (09:20 to 12:12 UTC) wrote such files, or it was edited. No version computes the numbers of that "
            "one again, so that nothing shows that they follow from scores.parquet; run the audit again."
        )
    if found and any(gate not in evidence.gates and gate.name == DISTINCT and gate.passed is None for gate in again.gates):
        raise RunError(
            f"{folder}: with so few records to keep and controls this version leaves open whether the references are copies of one "
            f"training; evidence.json does not. Versions before 28 November 2026 wrote such files, or it was edited. Run the audit "
            f"again with at least {ENOUGH} different records to keep or controls."
        )
    if found == ["smallest_margin"]:
        raise RunError(
            f"{folder}: every number follows from scores.parquet but the smallest margin that certifies. Versions before "
            "28 November 2026 let channels drop out of it that are too noisy at smaller margins, or it was edited. The verdict "
            "does not depend on it; run the audit again for the number."
        )
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        if all(_field(place) in SENTENCES for place in found):
            raise RunError(
                f"{folder}: every number follows from scores.parquet, but this version words {', '.join(found[:5])}{more} "
                "differently. Another version wrote evidence.json, or its sentences were edited. Recompute it with the "
                f"version that wrote it (it says unlearn-verify {evidence.environment.unlearn_verify}), or run the audit again."
            )
        raise RunError(
            f"{folder}: evidence.json does not follow from scores.parquet: {', '.join(found[:5])}{more} differ. One of the two "
            "files was changed; do not rely on either, and run the audit again."
        )
    return again


def _field(place: str) -> str:
    """Return the name of the field that a path of `differences` ends in: "reason" for "gates[2].reason"."""
    return place.rsplit(".", 1)[-1].split("[", 1)[0]


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Return the paths at which two trees of plain values differ, numbers beyond a relative tolerance."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for name in one for found in differences(one[name], other[name], f"{place}.{name}".lstrip("."))]
    if isinstance(one, tuple | list) and isinstance(other, tuple | list) and len(one) == len(other):
        pairs = zip(one, other, strict=True)
        return [found for number, pair in enumerate(pairs) for found in differences(*pair, f"{place}[{number}]")]
    if isinstance(one, float) and isinstance(other, float):
        return [] if abs(one - other) <= TOLERANCE * max(1.0, abs(one), abs(other)) else [place]
    return [] if one == other else [place]
