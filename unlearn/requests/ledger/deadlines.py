"""Statutory deadlines of requests by regime, to the day.

GDPR Article 12(3): one month from receipt, extendable by two further months. Periods in months end on the same day of the month, or
on its last day where there is none; an end on a Saturday, Sunday or public holiday moves to the next working day (Regulation
1182/71, Article 3). CCPA (11 CCR 7021): confirm within 10 business days, answer within 45 calendar days, extendable by 45 more.
California Delete Act (Civil Code 1798.99.86): from 1 August 2026 brokers fetch requests from DROP at least every 45 days and delete
within 45 days of fetching.

A day is one of the place where the requests are led: the zone of this machine, or the one in the variable TZ.
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
"""The day from which the GDPR applies, the first of these laws: no request under any of them was received before."""
ExtensionReason = Literal["complexity", "number-of-requests"]
"""GDPR Article 12(3) names these two. Words of one's own might name a person, and stay in the ledger for ever."""


@dataclass(frozen=True)
class Deadlines:
    """Deadlines of a request: last days, inclusive.

    Attributes:
        confirm: to acknowledge receipt; None where the regime sets no date.
        answer: to have deleted, or to have told the person why not.
        extended: the same where the person was told of an extension in time; None where there is none.
    """

    confirm: date | None
    answer: date
    extended: date | None


def today() -> date:
    """Return today's date in the local time zone: a UTC date would be a day ahead on a Californian evening."""
    return datetime.now().astimezone().date()


def require_receivable(received: date) -> None:
    """Raise InputError for an impossible day of receipt.

    Raises:
        InputError: it lies in the future, or before the first of these laws applied.
    """
    last = today()
    if not EARLIEST <= received <= last:
        raise InputError(
            f"the day of receipt must lie between {EARLIEST}, from which the first of these laws applies, and today, {last}."
        )


def deadlines(regime: Regime, received: date, country: str | None = None) -> Deadlines:
    """Compute the deadlines of a request.

    Args:
        regime: "gdpr", "ccpa" or "drop" (there `received` is the day the request was fetched from the platform).
        received: the day of receipt.
        country: ISO 3166 code whose public holidays count, such as "DE", for GDPR; the default is none (weekends only). For
            CCPA those of the United States always count, as its business days are California's.

    Raises:
        InputError: an unknown regime or country, or a DROP date before the platform opened.
    """
    if regime == "gdpr":
        # The day of receipt does not count, so that "one month later" is the same day of the next month, inclusive.
        answer, extended = (_working_day(received + relativedelta(months=months), country) for months in (1, 3))
        return Deadlines(None, answer, extended)
    if regime == "ccpa":
        return Deadlines(business_days_after(received, 10, "US"), received + timedelta(days=45), received + timedelta(days=90))
    if regime == "drop":
        if received < DROP_START:
            raise InputError(f"the DROP platform opened to brokers on {DROP_START}; {received} is before that. Use ccpa.")
        return Deadlines(None, received + DROP_CYCLE, None)
    raise InputError(f"the regime {regime!r} is unknown. Use one of: {', '.join(REGIMES)}.")


def next_drop_fetch(last: date | None) -> date:
    """Compute the last day for the next DROP fetch; `last` is the latest fetch, None before the first."""
    return DROP_START if last is None else last + DROP_CYCLE


def business_days_after(day: date, count: int, country: str | None) -> date:
    """Return the `count`-th business day after `day`."""
    while count:
        day += timedelta(days=1)
        count -= _works(day, country)
    return day


def _working_day(day: date, country: str | None) -> date:
    while not _works(day, country):
        day += timedelta(days=1)
    return day


def _works(day: date, country: str | None) -> bool:
    return day.weekday() < 5 and (country is None or day not in _holidays(country))


@cache
def _holidays(country: str) -> holidays.HolidayBase:
    try:
        return holidays.country_holidays(country)
    except NotImplementedError:
        raise InputError(f"the holidays of {country!r} are not known. Give an ISO 3166 code such as DE or US.") from None
