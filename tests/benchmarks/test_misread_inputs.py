"""No input of any family is misread in silence, and none ends in a bare traceback."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.misread.judging import FAULTS, Family, Member, Outcome, judge
from benchmarks.misread_inputs import RESULTS, TITLE, families, run, section
from benchmarks.sections import with_section
from verify.errors import InputError

FAMILY = Family(0, "invented", lambda _: ())


@pytest.mark.slow
def test_no_input_is_misread(tmp_path: Path) -> None:
    """The first members of every family; `python -m benchmarks.misread_inputs` takes all of them."""
    found = list(run(families(), tmp_path, quick=True))
    assert len(found) >= 100
    assert Counter(one.outcome for one in found)["read"] >= 10
    assert not [f"{one.outcome}: {one.family.name}: {one.member}: {one.said}" for one in found if one.outcome in FAULTS]


def refused(message: str) -> Any:
    raise InputError(message)


@pytest.mark.parametrize(
    ("outcome", "member"),
    [
        ("read", Member("", lambda: 3, lambda found: found == 3)),
        ("misread", Member("", lambda: 4, lambda found: found == 3)),
        ("misread", Member("", lambda: 3, None, "three")),
        ("refused", Member("", lambda: refused("Three is too\nmany."), None, r"(?=.*many)(?=.*three)")),
        ("refused wrongly", Member("", lambda: refused("Three is too many."), lambda found: found == 3)),
        ("refused unclearly", Member("", lambda: refused("It does not work."), None, "three")),
        ("disclosed", Member("", lambda: refused("Three of Ines"), None, "three", ("Ines",))),
        ("crashed", Member("", lambda: [][0], lambda found: found == 3, "three")),
        ("crashed", Member("", lambda: next(iter([])), None, "three")),
        ("crashed", Member("", lambda: exit(1), None, "three")),
    ],
)
def test_what_a_judge_says(outcome: Outcome, member: Member) -> None:
    """Every fault is one, whatever else is right: a reading that is not the known answer, an exception of no type of ours."""
    assert judge(FAMILY, member).outcome == outcome


def test_names_are_unique() -> None:
    """A family is found again by its name; there are forty of them at least, from eleven cases or more."""
    names = [family.name for family in families()]
    assert len(names) == len(set(names)) >= 40
    assert {family.case for family in families()} >= set(range(1, 12))


def test_the_results_keep_their_other_sections() -> None:
    """A section is put in place of its former self; what stands before and after it is not touched."""
    first, second = section([judge(FAMILY, Member("", lambda: 4))], 1.0), section([judge(FAMILY, Member("", lambda: 4))], 2.0)
    text = with_section("# Others\n\nbefore\n", TITLE, first)
    assert with_section(text, TITLE, second) == f"# Others\n\nbefore\n\n{second}"
    assert with_section(f"{text}\n# Last\n\nafter\n", TITLE, second) == f"# Others\n\nbefore\n\n{second}\n# Last\n\nafter\n"
    assert with_section("", TITLE, first) == with_section(first, TITLE, first) == first
    assert "**1 silently misread inputs of 1 tried**" in first


def test_the_committed_results_are_of_these_families() -> None:
    """The results name every family, and count no silently misread input."""
    text = RESULTS.read_text().partition(TITLE)[2].partition("\n# ")[0]  # other benchmarks have sections after it
    assert "**0 silently misread inputs of" in text
    assert [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| ")][2:] == [one.name for one in families()]
