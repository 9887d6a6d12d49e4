"""Tables of the configuration whose keys the operator chooses: relay rows, couriers, filters, archives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import attrs
from cattrs import Converter

from lorrainemail.config import values
from lorrainemail.config.checks import FilterRow
from lorrainemail.config.doc import KeyPath
from lorrainemail.config.mail import DeliverRow, RelayRow
from lorrainemail.config.scalars import choice, each, sequence, shown
from lorrainemail.config.values import Wrong

Row = TypeVar("Row", RelayRow, DeliverRow)

#: How the argument of a row of ``[deliver]`` is read, by its courier.
_ARGUMENTS: Final[Mapping[str, Callable[[str], str]]] = {
    "lmtp": values.parse_lmtp,
    "pipe": values.parse_command,
    "file": values.parse_file,
}


def rows(
    value: Any,
    parse_key: Callable[[str], str],
    parse_row: Callable[[Any, Converter], Row],
    converter: Converter,
) -> dict[str, Row]:
    """Rows whose keys are patterns, each pattern once."""
    if not isinstance(value, dict):
        raise Wrong(f"{shown(value)} stands where a table belongs", "write [relay] and its rows below it")
    patterns: set[str] = set()

    def one(item: tuple[str, Any]) -> tuple[str, Row]:
        pattern = parse_key(item[0])
        if pattern in patterns:
            raise Wrong(f'"{item[0]}" means the same recipients as another row', "keep one of them")
        patterns.add(pattern)
        return pattern, parse_row(item[1], converter)

    return dict(each(((item[0], item) for item in value.items()), one, "rows").values())


def relay_row(value: Any, converter: Converter) -> RelayRow:
    """A host, "mx", a list of hosts, or a table."""
    if value == "mx":
        return RelayRow(mx=True)
    if isinstance(value, str | list):
        value = {"host": value}
    elif isinstance(value, dict) and value.get("host") == "mx":
        value = {key: inner for key, inner in value.items() if key != "host"} | {"mx": True}
    elif not isinstance(value, dict):
        raise Wrong(f"{shown(value)} is no next hop", 'write a host in quotes, "mx", a list or a table')
    row = converter.structure(value, RelayRow)
    ways = [word for word, given in (("host", row.host), ("mx", row.mx), ("reject", row.reject)) if given]
    if len(ways) != 1:
        raise Wrong(
            f"the row says {' and '.join(ways)} at once" if ways else "the row names no next hop",
            'give one of host = "...", mx = true, or reject = "words"',
        )
    if row.credentials and not row.host:
        raise Wrong("credentials are for named hosts only", "give host, or leave credentials out")
    return row


def deliver_row(value: Any, converter: Converter) -> DeliverRow:
    """``"courier:argument"``, or a table."""
    if isinstance(value, str):
        courier, _, argument = value.partition(":")
        value = {"courier": courier, "argument": argument.strip()}
    elif not isinstance(value, dict):
        raise Wrong(f"{shown(value)} is no courier", 'write for example "lmtp:unix:/run/dovecot/lmtp"')
    row: DeliverRow = converter.structure(value, DeliverRow)
    if not row.courier:
        raise Wrong("the row names no courier", 'write courier = "lmtp", "pipe", "file" or a plugin\'s')
    check = _ARGUMENTS.get(row.courier)
    return row if check is None else attrs.evolve(row, argument=check(row.argument))


def _action_rows(value: Any, converter: Converter) -> dict[str, dict[str, str]]:
    """Words by check, for "" (everybody) and for each domain and address that has a table of its own."""
    words = choice(("off", "log", "tag", "junk", "refuse"))
    rows: dict[str, dict[str, str]] = {"": {}}

    def one(item: tuple[str, Any]) -> None:
        key, inner = item
        if not isinstance(inner, dict):
            rows[""][values.parse_name(key)] = words(inner)
            return
        whom = values.parse_account(key) if "@" in key else values.parse_domain(key)
        if whom in rows:
            raise Wrong(f'"{key}" means the same as another row', "keep one of them")
        rows[whom] = each(((values.parse_name(name), word) for name, word in inner.items()), words, "words")

    if not isinstance(value, dict):
        raise Wrong(f"{shown(value)} stands where a table belongs", "write [actions] and words below it")
    each(((item[0], item) for item in value.items()), one, "rows")
    return {key: row for key, row in rows.items() if row}


def _filter_rows(value: Any, converter: Converter) -> dict[str, FilterRow]:
    if not isinstance(value, dict):
        raise Wrong(f"{shown(value)} stands where a table belongs", "write [filters.NAME] and its settings")

    def one(item: tuple[str, Any]) -> FilterRow:
        values.parse_name(item[0])
        row: FilterRow = converter.structure(item[1], FilterRow)
        if not row.address:
            raise Wrong("the filter has no address", 'add address = "unix:/run/filter.sock"')
        return row

    return each(((item[0], item) for item in value.items()), one, "rows")


def _forwarder_rows(value: Any, converter: Converter) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise Wrong(f"{shown(value)} stands where a table belongs", "write [forwarders] and lists below it")

    def one(item: tuple[str, Any]) -> tuple[str, tuple[str, ...]]:
        return values.parse_account(item[0]), sequence(item[1], values.parse_forwarder)

    return dict(each(((item[0], item) for item in value.items()), one, "rows").values())


#: Tables whose keys are the operator's own words.
def _archive_rows(value: Any, converter: Converter) -> dict[str, str]:
    """Addresses by pattern, "from:" or "to:" before it."""
    rows: dict[str, str] = {}

    def one(item: tuple[str, Any]) -> None:
        head, colon, pattern = item[0].partition(":")
        who = f"{head}:" if colon and head in ("from", "to") else ""
        if not isinstance(item[1], str) or not item[1]:
            raise Wrong(f"{shown(item[1])} is no address", 'write for example "archive@bricoleur.com"')
        rows[who + values.parse_pattern(pattern if who else item[0])] = values.parse_account(item[1])

    if not isinstance(value, dict):
        raise Wrong(f"{shown(value)} stands where a table belongs", "write [archive] and its rows below it")
    each(((item[0], item) for item in value.items()), one, "rows")
    return rows


def _rewrite_rows(value: Any, converter: Converter) -> dict[str, str]:
    """An address by an address, a domain by a domain."""
    rows: dict[str, str] = {}

    def one(item: tuple[str, Any]) -> None:
        old, new = item
        if not isinstance(new, str) or ("@" in old and "@" not in new):
            raise Wrong(f"{shown(new)} is not what an address can become", "write an address in quotes")
        parse = values.parse_account if "@" in old else values.parse_domain
        rows[parse(old)] = new if "@" in old and values.parse_account(new) else values.parse_domain(new)

    if not isinstance(value, dict):
        raise Wrong(f"{shown(value)} stands where a table belongs", "write [rewrite] and its rows below it")
    each(((item[0], item) for item in value.items()), one, "rows")
    return rows


def _mailbox_script_rows(value: Any, converter: Converter) -> dict[str, str]:
    """Scripts by what users do: "into Junk", "out of Junk", "flags INBOX"."""

    def one(item: tuple[str, Any]) -> tuple[str, str]:
        key, script = item
        head = next((way for way in ("into ", "out of ", "flags ") if key.startswith(way)), "")
        if not head or not key[len(head) :].strip():
            raise Wrong(f'"{key}" is nothing that users do', 'write for example "into Junk" or "out of Junk"')
        if not isinstance(script, str):
            raise Wrong(f"{shown(script)} is no script", "write the name of a script in quotes")
        return key, values.parse_name(script)

    if not isinstance(value, dict):
        raise Wrong(
            f"{shown(value)} stands where a table belongs", "write [mailbox_scripts] and its rows below it"
        )
    return dict(each(((item[0], item) for item in value.items()), one, "rows").values())


TABLES: Final[Mapping[str, Callable[[Any, Converter], Any]]] = {
    "mailbox_scripts": _mailbox_script_rows,
    "actions": _action_rows,
    "archive": _archive_rows,
    "rewrite": _rewrite_rows,
    "filters": _filter_rows,
    "forwarders": _forwarder_rows,
}


def with_lines(
    rows: Mapping[str, Row],
    raw: Mapping[str, Any],
    lines: Mapping[KeyPath, int],
    table: str,
) -> dict[str, Row]:
    """Each row with its line; rows stand in the order of the file."""
    return {
        pattern: attrs.evolve(row, line=lines.get((table, key), 0))
        for (pattern, row), key in zip(rows.items(), raw, strict=True)
    }
