"""Compute the statutory deadlines of a request under GDPR, CCPA or the California Delete Act.

GDPR Article 12(3): one month from receipt, extendable by two further months. A period in months ends on the same day of the month,
or on the last day of a shorter month; an end on a Saturday, Sunday or public holiday moves to the next working day (Regulation
1182/71, Article 3). CCPA (11 CCR 7021): confirm within 10 business days, answer within 45 calendar days, extendable by 45 more.
California Delete Act (Civil Code 1798.99.86): from 1 August 2026 brokers fetch requests from DROP at least every 45 days and delete
within 45 days of fetching.

Days are counted in the local time zone of this machine, or in the zone that the environment variable TZ names.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from typing import Literal, get_args

import holidays
from dateutil.relativedelta import relativedelta

from verify.errors import InputError

Regime = Literal["gdpr", "ccpa", "drop"]
REGIMES: tuple[Regime, ...] = get_args(Regime)
DROP_START = date(2026, 8, 1)
DROP_CYCLE = timedelta(days=45)
EARLIEST = date(2018, 5, 25)
"""The day from which the GDPR, the earliest of these laws, applies; no request can have been received before it."""
ExtensionReason = Literal["complexity", "number-of-requests"]
"""The two reasons in GDPR Article 12(3). Free text is not accepted: it might name a person, and the ledger is append-only."""


@dataclass(frozen=True)
class Deadlines:
    """Deadlines of a request; each is the last permitted day, inclusive.

    Attributes:
        confirm: for acknowledging receipt; None if the regime sets no date.
        answer: for having deleted, or having explained to the person why not.
        extended: the same after an extension of which the person was notified in time; None if the regime allows none.
    """

    confirm: date | None
    answer: date
    extended: date | None


def today() -> date:
    """Return today's date in the local time zone; a UTC date would be a day ahead on a Californian evening."""
    return datetime.now().astimezone().date()


def require_receivable(received: date) -> None:
    """Check that a day of receipt is possible.

    Raises:
        InputError: it is in the future, or before the earliest of these laws applied.
    """
    last = today()
    if not EARLIEST <= received <= last:
        raise InputError(
            f"the day of receipt must lie between {EARLIEST}, from which the GDPR applies, and today, {last}. Correct the date."
        )


def deadlines(regime: Regime, received: date, country: str | None = None) -> Deadlines:
    """Compute the deadlines of a request.

    Args:
        regime: "gdpr", "ccpa" or "drop" (there `received` is the day the request was fetched from the platform).
        received: the day of receipt.
        country: ISO 3166 code of the country whose public holidays count under GDPR, such as "DE"; by default only weekends do.
            CCPA always counts the holidays of the United States.

    Raises:
        InputError: an unknown regime or country, or a DROP date before the platform opened.
    """
    if regime == "gdpr":
        # The day of receipt is not counted, so one month ends on the same day of the next month, inclusive.
        answer, extended = (_next_working_day(received + relativedelta(months=months), country) for months in (1, 3))
        return Deadlines(None, answer, extended)
    if regime == "ccpa":
        return Deadlines(business_days_after(received, 10, "US"), received + timedelta(days=45), received + timedelta(days=90))
    if regime == "drop":
        if received < DROP_START:
            raise InputError(
                f"the DROP platform opened to brokers on {DROP_START}; {received} is before that. Use the regime ccpa."
            )
        return Deadlines(None, received + DROP_CYCLE, None)
    raise InputError(f"unknown regime {regime!r}. Use one of: {', '.join(REGIMES)}.")


def business_days_after(day: date, count: int, country: str | None) -> date:
    """Return the `count`-th business day after `day`."""
    while count:
        day += timedelta(days=1)
        count -= _is_working_day(day, country)
    return day


def _next_working_day(day: date, country: str | None) -> date:
    while not _is_working_day(day, country):
        day += timedelta(days=1)
    return day


def _is_working_day(day: date, country: str | None) -> bool:
    return day.weekday() < 5 and (country is None or day not in _holidays(country))


@cache
def _holidays(country: str) -> holidays.HolidayBase:
    try:
        return holidays.country_holidays(country)
    except NotImplementedError:
        raise InputError(
            f"the public holidays of {country!r} are unknown. Use an ISO 3166 country code such as DE or US."
        ) from None
