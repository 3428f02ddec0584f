"""Times in files: whatever a file states, comparing it ends in an answer."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify.schema.deletion_record import Event, RequestFacts
from verify.schema.moments import day_in, read_time

ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(timezones=ZONES) | st.sampled_from(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]).map(
    datetime.fromisoformat
)


def received(at: str) -> RequestFacts:
    """A request received on 2 January 2026 and recorded at some time."""
    return RequestFacts(
        id="R",
        received=date(2026, 1, 2),
        regime="gdpr",
        confirm_by=None,
        answer_by=date(2026, 2, 2),
        extended_to=None,
        source="mail",
        identifiers=1,
        outcome="open",
        events=(Event(state="received", at=at),),
    )


@pytest.mark.parametrize("text", ["", "soon", "2026-02-30", "10000-01-01", "2026-01-01T25:00", None, 5, ["2026-01-01"], "\ud800"])
def test_what_is_no_time(text: object) -> None:
    """Anything that a JSON file can hold in its place is no time."""
    assert read_time(text) is None


@given(MOMENTS, ZONES)
def test_a_day_in_any_zone(moment: datetime, zone: timezone) -> None:
    """It is the day of the moment there, or None where the calendar has no such day."""
    day = day_in(zone, moment)
    offset = zone.utcoffset(None) - (moment.utcoffset() or timedelta(0))
    if day is None:
        assert not datetime.min + timedelta(days=2) < moment.replace(tzinfo=None) < datetime.max - timedelta(days=2)
    else:
        assert day == (moment.replace(tzinfo=None) + offset).date()


@given(MOMENTS, MOMENTS)
def test_a_request_is_compared_with_any_moment(moment: datetime, recorded: datetime) -> None:
    """There is an answer, and what is recorded earlier is never after."""
    assert not received(recorded.isoformat()).is_after(moment) or moment < recorded


def test_a_moment_at_the_edge_of_the_calendar_shows_nothing() -> None:
    """What claims to be of the first hours of year 1 is no commitment from before the request; days between are compared."""
    request = received("2026-01-02T10:00:00+00:00")
    assert not request.is_after(datetime.fromisoformat("0001-01-01T00:00:00+14:00"))
    assert not request.is_after(datetime.fromisoformat("9999-12-31T23:59:59-14:00"))
    assert request.is_after(datetime(2026, 1, 1, tzinfo=UTC))
    assert not received("soon").is_after(datetime(2026, 1, 2, tzinfo=UTC))
