"""Tests on dates: date and currentdate (RFC 5260 §4, §5)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from email.utils import parsedate_tz
from typing import Final

from lorrainemail.grammar.sieve import Node
from lorrainemail.message.dates import MAX_DATE_OCTETS, parse_date
from lorrainemail.sieve.compiler import MATCH_TAGS, MATCH_TYPES, Compiler, Form, Given, Tagged
from lorrainemail.sieve.run import Check, Run, RunError, Text
from lorrainemail.sieve.tests import INDEX_TAGS, MIME_TAGS, raw_values

_ZONE = re.compile(r"([+-])([0-9]{2})([0-9]{2})\Z")
_WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
PARTS: Final = frozenset(
    {
        "year", "month", "day", "date", "julian", "hour", "minute", "second", "time", "iso8601", "std11",
        "zone", "weekday",
    }
)  # fmt: skip
#: The day before the first of the Modified Julian Date, as proleptic ordinal.
_JULIAN: Final = 678576


def zone_of(text: str) -> tzinfo | None:
    """ "+hhmm" as a time zone, None where malformed."""
    match = _ZONE.match(text)
    if match is None or int(match.group(3)) > 59 or int(match.group(2)) > 23:
        return None
    offset = timedelta(hours=int(match.group(2)), minutes=int(match.group(3)))
    return timezone(-offset if match.group(1) == "-" else offset)


def part_of(moment: datetime, part: str) -> str:
    """One part of a date (RFC 5260 §4.2)."""
    if part == "julian":
        return str(moment.date().toordinal() - _JULIAN)
    if part == "weekday":
        return str((moment.weekday() + 1) % 7)
    if part == "iso8601":
        return moment.strftime("%Y-%m-%dT%H:%M:%S") + _zone(moment, ":")
    if part == "std11":
        return (
            f"{_WEEKDAYS[moment.weekday()]}, {moment.day:02} {_MONTHS[moment.month - 1]} {moment.year:04} "
            f"{moment:%H:%M:%S} {_zone(moment)}"
        )
    if part == "zone":
        return _zone(moment)
    return {
        "year": f"{moment.year:04}",
        "month": f"{moment.month:02}",
        "day": f"{moment.day:02}",
        "date": f"{moment.year:04}-{moment.month:02}-{moment.day:02}",
        "hour": f"{moment.hour:02}",
        "minute": f"{moment.minute:02}",
        "second": f"{moment.second:02}",
        "time": f"{moment:%H:%M:%S}",
    }[part]


def _zone(moment: datetime, between: str = "") -> str:
    offset = moment.utcoffset() or timedelta()
    minutes = int(offset.total_seconds()) // 60
    sign = "-" if minutes < 0 else "+"
    hours, rest = divmod(abs(minutes), 60)
    return f"{sign}{hours:02}{between}{rest:02}"


def moment_of(value: bytes) -> datetime | None:
    """The date in a field's value, in the zone that it has there; of a trace field what stands last."""
    if b";" in value:
        value = value[value.rindex(b";") + 1 :]
    value = value.strip()[:MAX_DATE_OCTETS]
    stamp = parse_date(value)
    if stamp is None:
        return None
    found = parsedate_tz(value.decode("ascii", "replace"))
    offset = (found[9] if found is not None else 0) or 0
    try:
        return datetime.fromtimestamp(stamp, timezone(timedelta(seconds=offset)))
    except (ValueError, OverflowError, OSError):
        return None


def _part(run: Run, value: Text) -> str:
    part = run.text(value).lower()
    if part not in PARTS:
        raise RunError(f'"{part[:60]}" is no part of a date')
    return part


def _checked(compiler: Compiler, node: Node, given: Given, part: Text) -> None:
    zone = given.get("zone")
    if isinstance(zone, str) and zone_of(zone) is None:
        compiler.fail(node, f'"{zone[:20]}" is no time zone like "+0100"')
    if isinstance(part, str) and part.lower() not in PARTS:
        compiler.fail(node, f'"{part[:60]}" is no part of a date')


def _zoned(run: Run, given: Given, moment: datetime) -> datetime:
    try:
        if "originalzone" in given:
            return moment
        if "zone" in given:
            zone = zone_of(run.text(given.get("zone")))
            if zone is None:
                raise RunError(":zone is no time zone")
            return moment.astimezone(zone)
        return moment.astimezone()
    except (ValueError, OverflowError, OSError):
        return moment


def _date(compiler: Compiler, node: Node, given: Given) -> Check:
    name, part, keys = given.values
    _checked(compiler, node, given, part)
    matching = compiler.matching(node, given, keys)
    find = raw_values(compiler, node, given)

    def date(run: Run) -> bool:
        wanted = _part(run, part)
        values = find(run, run.text(name))
        moments = [moment_of(value) for value in values]
        texts = [part_of(_zoned(run, given, moment), wanted) for moment in moments if moment is not None]
        return matching.any(run, texts)

    return date


def _currentdate(compiler: Compiler, node: Node, given: Given) -> Check:
    part, keys = given.values
    _checked(compiler, node, given, part)
    matching = compiler.matching(node, given, keys)

    def currentdate(run: Run) -> bool:
        now = datetime.fromtimestamp(run.context.now, UTC)
        return matching.any(run, [part_of(_zoned(run, given, now), _part(run, part))])

    return currentdate


TESTS: Final = {
    "date": Form(
        _date,
        {**MATCH_TAGS, **INDEX_TAGS, **MIME_TAGS, "zone": Tagged("string"), "originalzone": Tagged()},
        (MATCH_TYPES, frozenset({"zone", "originalzone"})),
        ("string", "string", "strings"),
        extension="date",
    ),
    "currentdate": Form(
        _currentdate,
        {**MATCH_TAGS, "zone": Tagged("string")},
        (MATCH_TYPES,),
        ("string", "strings"),
        extension="date",
    ),
}
