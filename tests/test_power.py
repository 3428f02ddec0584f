"""What an audit of a given size can show."""

import pytest

from verify import InputError, Settings
from verify.power import power_table

SETTINGS = Settings()


def row(text: str, **sizes: int) -> tuple[str, str]:
    found = [entry for entry in power_table(settings=SETTINGS, **sizes) if text in entry.claim]  # type: ignore[arg-type]
    assert len(found) == 1, text
    return found[0].given, found[0].needed


def test_published_sizes() -> None:
    """The sizes of verification.md section 10 come out: 571, 143, 268 and about 2,904 per arm."""
    assert row("AUC within 0.05", forget=600, controls=600) == ("can, with 600", "571 per arm")
    assert row("AUC within 0.1 ", forget=100, controls=200) == ("cannot, with 100", "143 per arm")
    assert row("at most 1 at a false-positive rate of 0.1", forget=300, controls=268)[1] == "268 per arm"
    needed = int(row("at most 1 at a false-positive rate of 0.01", forget=300)[1].split()[0].replace(",", ""))
    assert abs(needed - 2904) <= 5


def test_more_references_show_more() -> None:
    """One reference shows nothing, eight certify more often than three."""
    claim = "certify an honest retraining"
    assert row(claim, forget=60, references=1)[0].startswith("cannot")
    share = {count: float(row(claim, forget=60, references=count)[0].split("%")[0]) for count in (3, 8)}
    assert share[8] > share[3] + 10


def test_twins_for_a_lone_record() -> None:
    """A lone record among K needs 2 K / q - 1 twins: then the smallest p-value passes Benjamini-Hochberg's first step."""
    assert row("single record of the set", forget=10, controls=399) == (
        "p-values down to 0.0025; a lone record can be rejected",
        "399 controls",
    )
    assert "cannot be rejected" in row("single record of the set", forget=10, controls=398)[0]


def test_bad_sizes() -> None:
    """One record, or a negative number of anything, is refused."""
    for sizes in ({"forget": 1}, {"forget": 10, "controls": -1}):
        with pytest.raises(InputError, match="--forget must be"):
            power_table(settings=SETTINGS, **sizes)  # type: ignore[arg-type]
