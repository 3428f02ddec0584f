"""Deadlines, to the day."""

import time
from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest

from unlearn.cli import ledger
from unlearn.requests.ledger.deadlines import business_days_after, deadlines
from verify import InputError


@pytest.mark.parametrize(
    ("received", "answer", "extended"),
    [
        (date(2026, 3, 2), date(2026, 4, 2), date(2026, 6, 2)),
        (date(2026, 1, 31), date(2026, 3, 2), date(2026, 4, 30)),  # 28 February is a Saturday
        (date(2024, 1, 31), date(2024, 2, 29), date(2024, 4, 30)),  # leap year
        (date(2023, 1, 31), date(2023, 2, 28), date(2023, 5, 1)),  # 30 April is a Sunday
        (date(2025, 11, 30), date(2025, 12, 30), date(2026, 3, 2)),  # three months on, 28 February is a Saturday
    ],
)
def test_gdpr_months(received: date, answer: date, extended: date) -> None:
    """One calendar month, by the last day of a shorter month; a weekend moves to Monday; two months more."""
    found = deadlines("gdpr", received)
    assert (found.confirm, found.answer, found.extended) == (None, answer, extended)


def test_gdpr_public_holidays() -> None:
    """1 May is a holiday in Germany and a Friday in 2026: Monday the 4th it is; without a country it stays."""
    assert deadlines("gdpr", date(2026, 4, 1), "DE").answer == date(2026, 5, 4)
    assert deadlines("gdpr", date(2026, 4, 1)).answer == date(2026, 5, 1)


def test_ccpa() -> None:
    """Ten business days to confirm, across Thanksgiving; 45 and 90 calendar days to answer, across a leap day."""
    found = deadlines("ccpa", date(2026, 11, 20))
    assert found.confirm == date(2026, 12, 7)  # 23-25, 27, 30 November, 1-4 and 7 December: the 26th is a holiday
    assert found.answer == date(2027, 1, 4)
    assert deadlines("ccpa", date(2028, 1, 20)).answer == date(2028, 3, 5)
    assert deadlines("ccpa", date(2028, 1, 20)).extended == date(2028, 4, 19)


def test_ccpa_counts_californias_days() -> None:
    """Another country's holidays move no day of the CCPA: Easter Monday is a working day in California, Thanksgiving is none."""
    for received in (date(2027, 3, 22), date(2026, 11, 20), date(2026, 12, 14)):
        assert deadlines("ccpa", received, "DE") == deadlines("ccpa", received)


def test_the_day_is_that_of_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zones 26 hours apart never have the same day: each gets its own, so that an evening in California is not tomorrow."""
    try:
        for zone in ("Etc/GMT+12", "America/Los_Angeles", "Etc/GMT-14"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert ledger.today() == datetime.now(ZoneInfo(zone)).date()
    finally:
        monkeypatch.undo()
        time.tzset()


def test_drop_cycles() -> None:
    """45 days to delete, from the day of fetching; the platform opened on 1 August 2026."""
    assert deadlines("drop", date(2026, 9, 15)).answer == date(2026, 10, 30)
    with pytest.raises(InputError, match="before that"):
        deadlines("drop", date(2026, 7, 31))


def test_business_days() -> None:
    """Saturdays and Sundays do not count; zero days after is the day itself."""
    assert business_days_after(date(2026, 11, 6), 1, None) == date(2026, 11, 9)
    assert business_days_after(date(2026, 11, 7), 0, None) == date(2026, 11, 7)


def test_unknown_regime_and_country() -> None:
    """Both are named with what is allowed."""
    with pytest.raises(InputError, match="gdpr, ccpa, drop"):
        deadlines("hipaa", date(2026, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ISO 3166"):
        deadlines("gdpr", date(2026, 1, 1), "XX")
