"""Times and days that a file states: read without an error for what is none, up to both ends of the calendar."""

from datetime import date, datetime, tzinfo
from typing import Any


def read_time(text: Any) -> datetime | None:
    """Return a time, with a time zone or without; None for anything else."""
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def day_in(zone: tzinfo | None, moment: datetime) -> date | None:
    """Return the day of a time in a time zone, None being this host's; None where it is outside the calendar.

    In a zone west of its own, the first hours of year 1 belong to a day that has no date.
    """
    try:
        return moment.astimezone(zone).date()
    except (ValueError, OverflowError, OSError):  # which of them depends on the host, and on whether the zone is its own
        return None
