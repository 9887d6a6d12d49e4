"""Dates of mail: RFC 5322 in, seconds since the epoch out; and RFC 3501's date-time both ways.

Pure and in linear time: what is not a plain date (RFC 5322 §3.3, with obsolete zones and two-digit years) is
no date, and the caller gets None.
"""

from __future__ import annotations

import calendar
import re
import time
from functools import lru_cache
from typing import Final

_MONTHS: Final = (
    b"jan",
    b"feb",
    b"mar",
    b"apr",
    b"may",
    b"jun",
    b"jul",
    b"aug",
    b"sep",
    b"oct",
    b"nov",
    b"dec",
)
_MONTH: Final = {name: number for number, name in enumerate(_MONTHS, 1)}
#: RFC 5322 §4.3: minutes east of UTC.
_ZONES: Final = {
    b"ut": 0, b"utc": 0, b"gmt": 0, b"z": 0, b"est": -300, b"edt": -240, b"cst": -360, b"cdt": -300,
    b"mst": -420, b"mdt": -360, b"pst": -480, b"pdt": -420,
}  # fmt: skip
#: A date is short; nothing longer is looked at.
MAX_DATE_OCTETS: Final = 200

_DATE = re.compile(
    rb"(?:[A-Za-z]{3,9}[., ] *,? *|, *)?([0-9]{1,2})[ -]+([A-Za-z]{3,9})[ -]+([0-9]{2,5})"
    rb"(?:[ ,]+([0-9]{1,2})[:.]([0-9]{2})(?:[:.]([0-9]{2}))?(?:\.[0-9]+)?"
    rb"(?: *([+-][0-9]{4})| +([A-Za-z]{1,5}))?)?"
)
#: How nearly all mail writes it.
_USUAL = re.compile(
    rb"[A-Z][a-z]{2}, ([0-9]{1,2} [A-Z][a-z]{2} [0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-5][0-9]) "
    rb"([+-])([0-9]{2})([0-9]{2})(?: \([A-Z]{1,5}\))?"
)
_DATE_TIME = re.compile(
    rb"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})\Z"
)
_COMMENT = re.compile(rb"\([^()]*\)")


def _fields(value: bytes) -> tuple[int, int, int, re.Match[bytes]] | None:
    value = value[:MAX_DATE_OCTETS]
    if b"(" in value:
        value = _COMMENT.sub(b" ", value)
    if b"\t" in value or b"\r" in value or b"  " in value:
        value = b" ".join(value.split())
    match = _DATE.match(value.strip())
    if match is None:
        return None
    month = _MONTH.get(match.group(2)[:3].lower())
    if month is None:
        return None
    year, day = int(match.group(3)), int(match.group(1))
    if year < 50:  # RFC 5322 §4.3
        year += 2000
    elif year < 1000:
        year += 1900
    if not 1 <= year <= 9999 or not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    return year, month, day, match


@lru_cache(maxsize=1024)
def _midnight(day: bytes) -> int | None:
    """When a day such as ``1 Feb 1994`` begins in UTC; None where there is none."""
    found = _fields(day)
    return None if found is None else calendar.timegm((*found[:3], 0, 0, 0))


def parse_date(value: bytes) -> int | None:
    """The instant of a ``Date:`` value, None where it is no date (RFC 5322 §3.3, §4.3)."""
    usual = _USUAL.fullmatch(value)
    if usual is not None:
        day, hours, minutes, seconds, sign, east, more = usual.groups()
        midnight = _midnight(day)
        if midnight is None or hours > b"23" or minutes > b"59":
            return None
        zone = int(east) * 3600 + int(more) * 60
        instant = midnight + int(hours) * 3600 + int(minutes) * 60 + int(seconds)
        return instant + zone if sign == b"-" else instant - zone
    found = _fields(value)
    if found is None:
        return None
    year, month, day, match = found
    hour, minute, second = match.group(4, 5, 6)
    if hour is None:
        return calendar.timegm((year, month, day, 0, 0, 0))
    h, m, s = int(hour), int(minute), min(int(second or 0), 59)
    if h > 23 or m > 59:
        return None
    digits, name = match.group(7, 8)
    offset = 0
    if digits is not None:
        offset = int(digits[1:3]) * 60 + int(digits[3:5])
        if digits[:1] == b"-":
            offset = -offset
    elif name is not None:
        offset = _ZONES.get(name.lower(), 0)
    return calendar.timegm((year, month, day, h, m, s)) - offset * 60


def parse_day(value: bytes) -> int | None:
    """The day that a ``Date:`` value names, zone disregarded, as a number (RFC 3501 §6.4.4)."""
    found = _fields(value)
    return None if found is None else day_number(*found[:3])


def day_number(year: int, month: int, day: int) -> int:
    """Days since the epoch of a calendar day."""
    return calendar.timegm((year, month, day, 0, 0, 0)) // 86400


def parse_date_time(value: bytes) -> int | None:
    """RFC 3501 §9 ``date-time`` (without its quotes), None where malformed."""
    match = _DATE_TIME.match(value)
    if match is None:
        return None
    day, name, year, hour, minute, second, sign, zone_hour, zone_minute = match.groups()
    month = _MONTH.get(name.lower())
    if month is None or year == b"0000":
        return None
    if not 1 <= int(day) <= calendar.monthrange(int(year), month)[1]:
        return None
    if int(hour) > 23 or int(minute) > 59 or int(second) > 60 or int(zone_minute) > 59:
        return None
    offset = int(zone_hour) * 3600 + int(zone_minute) * 60
    stamp = calendar.timegm((int(year), month, int(day), int(hour), int(minute), int(second)))
    return stamp + offset if sign == b"-" else stamp - offset


def parse_search_date(value: bytes) -> int | None:
    """RFC 3501 §9 ``date-text`` ("1-Feb-1994") as :func:`day_number`."""
    day, _, rest = value.partition(b"-")
    name, _, year = rest.partition(b"-")
    month = _MONTH.get(name.lower())
    if month is None or not (day.isdigit() and year.isdigit() and len(day) <= 2 and len(year) == 4):
        return None
    if year == b"0000" or not 1 <= int(day) <= calendar.monthrange(int(year), month)[1]:
        return None
    return day_number(int(year), month, int(day))


def date_time(stamp: int) -> bytes:
    """RFC 3501 §9 ``date-time`` in UTC, with its quotes."""
    moment = time.gmtime(stamp)
    return b'"%2d-%b-%04d %02d:%02d:%02d +0000"' % (
        moment.tm_mday,
        _MONTHS[moment.tm_mon - 1].title(),
        moment.tm_year,
        moment.tm_hour,
        moment.tm_min,
        moment.tm_sec,
    )
