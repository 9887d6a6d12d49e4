"""Finds the configuration and reads it: every problem at once, each with file, line and mend.

:func:`locate` alone decides where configuration and state are, for the server and for every command;
:func:`load` turns the file into :class:`lorrainemail.config.model.Settings`, all paths in it absolute. Both
fail with :class:`lorrainemail.errors.ConfigurationError` and with nothing else. Called before the reactor
runs and at a reload; the file read is small and bounded.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import socket
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, Literal, NoReturn, TypeVar, get_args, get_origin

import attrs
from cattrs import (
    AttributeValidationNote,
    ClassValidationError,
    Converter,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, override

from lorrainemail.config import values
from lorrainemail.config.default import default_settings
from lorrainemail.config.lines import key_lines
from lorrainemail.config.model import DeliverRow, FilterRow, KeyPath, RelayRow, Settings
from lorrainemail.config.values import Wrong
from lorrainemail.errors import ConfigurationError, Problem

#: The name of the configuration file inside a state directory.
FILE_NAME: Final = "lorrainemail.toml"
#: Where a packaged server is configured.
SYSTEM_FILE: Final = "/etc/lorrainemail/lorrainemail.toml"
#: Where a packaged server keeps its state.
SYSTEM_STATE: Final = "/var/lib/lorrainemail"
#: Where a server without any configuration keeps its state, below the current directory.
EMBEDDED_STATE: Final = "lorrainemail-state"
#: A larger file is no configuration.
MAX_FILE: Final = 4 * 2**20
#: More problems than these help nobody.
MAX_PROBLEMS: Final = 200

Row = TypeVar("Row", RelayRow, DeliverRow)

#: How the argument of a row of ``[deliver]`` is read, by its courier.
_ARGUMENTS: Final[Mapping[str, Callable[[str], str]]] = {
    "lmtp": values.parse_lmtp,
    "pipe": values.parse_command,
    "file": values.parse_file,
}
#: How each ``kind`` of the model is read.
_KINDS: Final[Mapping[str, Callable[[str], str]]] = {
    "acme": values.parse_directory,
    "address": values.parse_account,
    "client": values.parse_client,
    "dns_list": values.parse_dns_list,
    "domain": values.parse_domain,
    "endpoint": values.parse_endpoint,
    "hop": values.parse_hop,
    "hostname": values.parse_hostname,
    "ip": values.parse_ip,
    "network": values.parse_network,
    "resolver": values.parse_resolver,
    "separators": values.parse_separators,
    "text": values.parse_text,
    "time": values.parse_time_server,
    "tls": values.parse_tls,
    "url": values.parse_url,
    "word": values.parse_name,
}


@attrs.frozen(slots=True)
class Located:
    """Where configuration and state are.

    :ivar file: absolute path of the configuration, None where the embedded default is used.
    :ivar state: absolute path of the state directory.
    :ivar embedded: nothing was configured anywhere: the server's first start writes the default file.
    """

    file: str | None
    state: str
    embedded: bool


def locate(
    config: str | None = None,
    state: str | None = None,
    *,
    directory: str | None = None,
    system_file: str = SYSTEM_FILE,
    system_state: str = SYSTEM_STATE,
) -> Located:
    """Decide where configuration and state are.

    Configuration: ``--config``, else ``lorrainemail.toml`` in the directory of ``--state``, else
    ``/etc/lorrainemail/lorrainemail.toml``, else the embedded default in ``./lorrainemail-state``. State:
    ``--state``, else ``state`` in the file, else ``/var/lib/lorrainemail``.

    :param config: the option ``--config``, relative to the current directory.
    :param state: the option ``--state``, likewise.
    :param directory: the current directory, where it is not the process's own.
    """
    here = os.path.abspath(directory or os.getcwd())
    given_state = os.path.normpath(os.path.join(here, state)) if state else None
    if config:
        file = os.path.normpath(os.path.join(here, config))
        if not _present(file):
            _fail(file, 0, "there is no such configuration file", "check the path given with --config")
        return Located(file, given_state or _state_in(file, system_state), False)
    if given_state is not None:
        file = os.path.join(given_state, FILE_NAME)
        if _present(file):
            return Located(file, given_state, False)
    if _present(system_file):
        return Located(system_file, given_state or _state_in(system_file, system_state), False)
    if given_state is not None:
        return Located(None, given_state, True)
    embedded = os.path.join(here, EMBEDDED_STATE)
    file = os.path.join(embedded, FILE_NAME)
    if _present(file):
        return Located(file, _state_in(file, embedded), False)
    return Located(None, embedded, True)


def load(located: Located) -> Settings:
    """The settings, checked whole; the embedded default where nothing is configured.

    :raises ConfigurationError: with every problem of the file.
    """
    if located.file is None:
        return default_settings(located.state)
    return load_text(_read(located.file), located.file, located.state)


def load_text(text: str, file: str, state: str) -> Settings:
    """As :func:`load`, from a text that is read already.

    :param file: its path, for messages and for ``Settings.file``.
    :param state: the state directory, to which paths in the text are relative.
    """
    data = _parse(text, file)
    lines = key_lines(text)
    problems: list[Problem] = []
    settings: Settings | None = None
    try:
        reading = _relative_to.set(state)
        try:
            settings = _converter().structure(data, Settings)
        finally:
            _relative_to.reset(reading)
    except ClassValidationError as error:
        for path, fault in _faults(error, ()):
            problems.extend(_problem(file, lines, path, fault))
    problems.extend(_across(file, lines, data))
    if settings is None or problems:
        problems.sort(key=lambda problem: problem.line)
        raise ConfigurationError(tuple(problems[:MAX_PROBLEMS]))
    return attrs.evolve(
        settings,
        hostname=settings.hostname or own_name(),
        state=state,
        file=file,
        lines=lines,
        relay=_with_lines(settings.relay, data.get("relay", {}), lines, "relay"),
        unknown_users=_with_lines(
            settings.unknown_users, data.get("unknown_users", {}), lines, "unknown_users"
        ),
        relay_by_sender=_with_lines(
            settings.relay_by_sender, data.get("relay_by_sender", {}), lines, "relay_by_sender"
        ),
        deliver=_with_lines(settings.deliver, data.get("deliver", {}), lines, "deliver"),
    )


def own_name() -> str:
    """The machine's name where the configuration gives none; never asks the DNS."""
    try:
        return values.parse_hostname(socket.gethostname())
    except Wrong:
        return "localhost"


# -- files -----------------------------------------------------------------------------------------------


def _fail(file: str, line: int, what: str, mend: str) -> NoReturn:
    raise ConfigurationError((Problem(file, line, what, mend),))


def _present(file: str) -> bool:
    """Whether the file is there; a file that may not be looked at is an error, not an absence."""
    try:
        os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        _fail(file, 0, f"cannot be read: {error.strerror}", "run as a user who may read it, or use --config")
    return True


def _read(file: str) -> str:
    try:
        with open(file, "rb") as stream:
            octets = stream.read(MAX_FILE + 1)
    except OSError as error:
        _fail(file, 0, f"cannot be read: {error.strerror}", "check the path and its permissions")
    if len(octets) > MAX_FILE:
        _fail(file, 0, f"is larger than {MAX_FILE} octets", "this is no configuration file")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        line = octets[: error.start].count(b"\n") + 1
        _fail(file, line, "is not UTF-8 text", "save the file as UTF-8")


def _parse(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        match = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)\Z", message)
        line = int(match.group(1)) if match and match.group(1) else text.count("\n") + 1
        what = message[: match.start()] if match else message
        mend = "mend the TOML syntax on this line or just before it"
        if "\\" in what or "escape" in what.lower():
            mend = "put a value with a backslash in 'single quotes'"
        elif "overwrite" in what or "declare" in what or "mutate" in what:
            mend = "the same name is given twice: keep one"
        _fail(file, line, f"this is no TOML: {what[:1].lower()}{what[1:]}", mend)
    except RecursionError:
        _fail(file, 0, "values are nested too deeply", "no setting needs that")


def _state_in(file: str, default: str) -> str:
    """The state directory that a file names: relative to the file's own directory."""
    text = _read(file)
    given = _parse(text, file).get("state", "")
    if not isinstance(given, str) or "\0" in given:
        load_text(text, file, default)  # raises with this problem and every other
    return os.path.normpath(os.path.join(os.path.dirname(file), given)) if given else default


# -- structure -------------------------------------------------------------------------------------------


Hook = Callable[[Any, Any], Any]

#: The state directory of the text that is being read.
_relative_to: ContextVar[str] = ContextVar("lorrainemail.config.load")


@functools.cache
def _converter() -> Converter:
    """A strict converter: nothing is coerced, unknown keys are faults, each value goes through its parser.
    Dear to make, and the same for every text."""
    converter = Converter(detailed_validation=True, forbid_extra_keys=True)

    def class_hook(cls: Any) -> Hook:
        attrs.resolve_types(cls)
        overrides: dict[str, Any] = {}
        for field in attrs.fields(cls):
            if attrs.has(field.type):
                continue
            if "doc" not in field.metadata:
                overrides[field.name] = override(omit=True)
            else:
                overrides[field.name] = override(struct_hook=_field_hook(field, converter))
        fill: Any = make_dict_structure_fn(cls, converter, True, **overrides)

        def structure(value: Any, kind: Any) -> Any:
            if not isinstance(value, dict):
                raise Wrong(f"{_shown(value)} stands where a table belongs", "write it as a [table]")
            return fill(value, kind)

        return structure

    converter.register_structure_hook_factory(attrs.has, class_hook)
    return converter


def _field_hook(field: attrs.Attribute[Any], converter: Converter) -> Hook:
    """How one setting is read, from its type and its metadata."""
    kind: Any = field.type
    element = kind
    if get_origin(kind) is tuple:
        element = get_args(kind)[0]
    table = _TABLES.get(field.metadata.get("kind", ""))
    if table is not None:
        return lambda value, _: table(value, converter)
    if get_origin(kind) is dict and get_args(kind)[1] is DeliverRow:
        return lambda value, _: _rows(value, values.parse_pattern, _deliver_row, converter)
    if get_origin(kind) is dict:
        parse_key = values.parse_sender_pattern if field.name == "relay_by_sender" else values.parse_pattern
        return lambda value, _: _rows(value, parse_key, _relay_row, converter)
    one: Callable[[Any], Any]
    if get_origin(element) is Literal:
        one = _choice(get_args(element))
    elif element is bool:
        one = _boolean
    elif element is int:
        one = _number(field.metadata)
    else:
        one = _string(field.metadata.get("kind", ""))
    if element is kind:
        return lambda value, _: one(value)
    lone = field.metadata.get("kind") == "hop"  # a relay row's single host needs no list
    return lambda value, _: _sequence([value] if lone and isinstance(value, str) else value, one)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Wrong(f"{_shown(value)} is neither true nor false", "write true or false, without quotes")
    return value


def _choice(choices: tuple[Any, ...]) -> Callable[[Any], Any]:
    words = " or ".join(f'"{choice}"' for choice in choices)

    def read(value: Any) -> Any:
        if value not in choices or not isinstance(value, str):
            raise Wrong(f"{_shown(value)} is not among the choices", f"write {words}")
        return value

    return read


def _number(metadata: Mapping[str, Any]) -> Callable[[Any], int]:
    unit, least, most = metadata.get("unit"), metadata.get("least", 0), metadata.get("most", 2**62)

    def read(value: Any) -> int:
        number: int
        if isinstance(value, str) and unit == "size":
            number = values.parse_size(value)
        elif isinstance(value, str) and unit == "duration":
            number = values.parse_duration(value)
        elif isinstance(value, int) and not isinstance(value, bool) and unit is None:
            number = value
        elif unit == "size":
            raise Wrong(
                f"{_shown(value)} is a size without its unit", 'write for example "50 MB" or "64 MiB"'
            )
        elif unit == "duration":
            raise Wrong(f"{_shown(value)} is a duration without its unit", 'write for example "5m" or "5d"')
        else:
            raise Wrong(f"{_shown(value)} is no whole number", "write a number without quotes")
        if number < least:
            raise Wrong(f"{_shown(value)} is too small", f"the least is {_amount(least, unit)}")
        if number > most:
            raise Wrong(f"{_shown(value)} is too large", f"the most is {_amount(most, unit)}")
        return number

    return read


def _string(kind: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise Wrong(f"{_shown(value)} is no text", 'write it in quotes: "..."')
        if len(value) > values.MAX_WORD or "\0" in value:
            raise Wrong(
                "the text is too long or has a null character", f"at most {values.MAX_WORD} characters"
            )
        if kind in ("path", "state"):
            return os.path.normpath(os.path.join(_relative_to.get(), value)) if value else ""
        return _KINDS[kind](value)

    return read


def _sequence(value: Any, one: Callable[[Any], Any]) -> tuple[Any, ...]:
    if not isinstance(value, list):
        shown = f'["{value}"]' if isinstance(value, str) else "[...]"
        raise Wrong(f"{_shown(value)} stands where a list belongs", f"write it in brackets: {shown}")
    return tuple(_each(enumerate(value), one, "list").values())


def _each(items: Iterable[tuple[Any, Any]], one: Callable[[Any], Any], name: str) -> dict[Any, Any]:
    """Read every element; the faults of all of them at once."""
    done: dict[Any, Any] = {}
    faults: list[Exception] = []
    for index, item in items:
        try:
            done[index] = one(item)
        except Exception as error:
            error.__notes__ = [*getattr(error, "__notes__", ()), IterableValidationNote(name, index, object)]
            faults.append(error)
    if faults:
        raise IterableValidationError(name, faults, list)
    return done


def _rows(
    value: Any,
    parse_key: Callable[[str], str],
    parse_row: Callable[[Any, Converter], Row],
    converter: Converter,
) -> dict[str, Row]:
    if not isinstance(value, dict):
        raise Wrong(f"{_shown(value)} stands where a table belongs", "write [relay] and its rows below it")
    patterns: set[str] = set()

    def one(item: tuple[str, Any]) -> tuple[str, Row]:
        pattern = parse_key(item[0])
        if pattern in patterns:
            raise Wrong(f'"{item[0]}" means the same recipients as another row', "keep one of them")
        patterns.add(pattern)
        return pattern, parse_row(item[1], converter)

    return dict(_each(((item[0], item) for item in value.items()), one, "rows").values())


def _relay_row(value: Any, converter: Converter) -> RelayRow:
    """A host, "mx", a list of hosts, or a table."""
    if value == "mx":
        return RelayRow(mx=True)
    if isinstance(value, str | list):
        value = {"host": value}
    elif isinstance(value, dict) and value.get("host") == "mx":
        value = {key: inner for key, inner in value.items() if key != "host"} | {"mx": True}
    elif not isinstance(value, dict):
        raise Wrong(f"{_shown(value)} is no next hop", 'write a host in quotes, "mx", a list or a table')
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


def _action_rows(value: Any, converter: Converter) -> dict[str, dict[str, str]]:
    """Words by check, for "" (everybody) and for each domain and address that has a table of its own."""
    words = _choice(("off", "log", "tag", "junk", "refuse"))
    rows: dict[str, dict[str, str]] = {"": {}}

    def one(item: tuple[str, Any]) -> None:
        key, inner = item
        if not isinstance(inner, dict):
            rows[""][values.parse_name(key)] = words(inner)
            return
        whom = values.parse_account(key) if "@" in key else values.parse_domain(key)
        if whom in rows:
            raise Wrong(f'"{key}" means the same as another row', "keep one of them")
        rows[whom] = _each(((values.parse_name(name), word) for name, word in inner.items()), words, "words")

    if not isinstance(value, dict):
        raise Wrong(f"{_shown(value)} stands where a table belongs", "write [actions] and words below it")
    _each(((item[0], item) for item in value.items()), one, "rows")
    return {key: row for key, row in rows.items() if row}


def _filter_rows(value: Any, converter: Converter) -> dict[str, FilterRow]:
    if not isinstance(value, dict):
        raise Wrong(f"{_shown(value)} stands where a table belongs", "write [filters.NAME] and its settings")

    def one(item: tuple[str, Any]) -> FilterRow:
        values.parse_name(item[0])
        row: FilterRow = converter.structure(item[1], FilterRow)
        if not row.address:
            raise Wrong("the filter has no address", 'add address = "unix:/run/filter.sock"')
        return row

    return _each(((item[0], item) for item in value.items()), one, "rows")


def _forwarder_rows(value: Any, converter: Converter) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise Wrong(f"{_shown(value)} stands where a table belongs", "write [forwarders] and lists below it")

    def one(item: tuple[str, Any]) -> tuple[str, tuple[str, ...]]:
        return values.parse_account(item[0]), _sequence(item[1], values.parse_forwarder)

    return dict(_each(((item[0], item) for item in value.items()), one, "rows").values())


#: Tables whose keys are the operator's own words.
def _archive_rows(value: Any, converter: Converter) -> dict[str, str]:
    """Addresses by pattern, "from:" or "to:" before it."""
    rows: dict[str, str] = {}

    def one(item: tuple[str, Any]) -> None:
        head, colon, pattern = item[0].partition(":")
        who = f"{head}:" if colon and head in ("from", "to") else ""
        if not isinstance(item[1], str) or not item[1]:
            raise Wrong(f"{_shown(item[1])} is no address", 'write for example "archive@bricoleur.com"')
        rows[who + values.parse_pattern(pattern if who else item[0])] = values.parse_account(item[1])

    if not isinstance(value, dict):
        raise Wrong(f"{_shown(value)} stands where a table belongs", "write [archive] and its rows below it")
    _each(((item[0], item) for item in value.items()), one, "rows")
    return rows


def _rewrite_rows(value: Any, converter: Converter) -> dict[str, str]:
    """An address by an address, a domain by a domain."""
    rows: dict[str, str] = {}

    def one(item: tuple[str, Any]) -> None:
        old, new = item
        if not isinstance(new, str) or ("@" in old and "@" not in new):
            raise Wrong(f"{_shown(new)} is not what an address can become", "write an address in quotes")
        parse = values.parse_account if "@" in old else values.parse_domain
        rows[parse(old)] = new if "@" in old and values.parse_account(new) else values.parse_domain(new)

    if not isinstance(value, dict):
        raise Wrong(f"{_shown(value)} stands where a table belongs", "write [rewrite] and its rows below it")
    _each(((item[0], item) for item in value.items()), one, "rows")
    return rows


def _mailbox_script_rows(value: Any, converter: Converter) -> dict[str, str]:
    """Scripts by what users do: "into Junk", "out of Junk", "flags INBOX"."""

    def one(item: tuple[str, Any]) -> tuple[str, str]:
        key, script = item
        head = next((way for way in ("into ", "out of ", "flags ") if key.startswith(way)), "")
        if not head or not key[len(head) :].strip():
            raise Wrong(f'"{key}" is nothing that users do', 'write for example "into Junk" or "out of Junk"')
        if not isinstance(script, str):
            raise Wrong(f"{_shown(script)} is no script", "write the name of a script in quotes")
        return key, values.parse_name(script)

    if not isinstance(value, dict):
        raise Wrong(
            f"{_shown(value)} stands where a table belongs", "write [mailbox_scripts] and its rows below it"
        )
    return dict(_each(((item[0], item) for item in value.items()), one, "rows").values())


_TABLES: Final[Mapping[str, Callable[[Any, Converter], Any]]] = {
    "mailbox_scripts": _mailbox_script_rows,
    "actions": _action_rows,
    "archive": _archive_rows,
    "rewrite": _rewrite_rows,
    "filters": _filter_rows,
    "forwarders": _forwarder_rows,
}


def _deliver_row(value: Any, converter: Converter) -> DeliverRow:
    """``"courier:argument"``, or a table."""
    if isinstance(value, str):
        courier, _, argument = value.partition(":")
        value = {"courier": courier, "argument": argument.strip()}
    elif not isinstance(value, dict):
        raise Wrong(f"{_shown(value)} is no courier", 'write for example "lmtp:unix:/run/dovecot/lmtp"')
    row: DeliverRow = converter.structure(value, DeliverRow)
    if not row.courier:
        raise Wrong("the row names no courier", 'write courier = "lmtp", "pipe", "file" or a plugin\'s')
    check = _ARGUMENTS.get(row.courier)
    return row if check is None else attrs.evolve(row, argument=check(row.argument))


def _with_lines(
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


# -- problems --------------------------------------------------------------------------------------------


def _faults(error: Exception, path: KeyPath) -> Iterator[tuple[KeyPath, Exception]]:
    """Every single fault inside cattrs' nested groups, with the path that leads to it."""
    if isinstance(error, ClassValidationError | IterableValidationError):
        for inner in error.exceptions:
            step: KeyPath = ()
            notes = getattr(inner, "__notes__", ())
            for note in notes:
                if isinstance(note, AttributeValidationNote):
                    step = (note.name,)
                elif isinstance(note, IterableValidationNote):
                    step = (note.index,)
            yield from _faults(inner, path + step)
    else:
        yield path, error


def _problem(file: str, lines: Mapping[KeyPath, int], path: KeyPath, fault: Exception) -> Iterator[Problem]:
    """One fault in operator's words (an unknown-key fault may name several)."""
    if isinstance(fault, ForbiddenExtraKeysError):
        known = [
            field.name for field in attrs.fields(fault.cl) if "doc" in field.metadata or attrs.has(field.type)
        ]
        for key in sorted(fault.extra_fields):
            near = difflib.get_close_matches(key, known, 1)
            mend = f'did you mean "{near[0]}"?' if near else "known here: " + ", ".join(known)
            what = f"there is no setting {dotted((*path, key))}"
            yield Problem(file, _line(lines, (*path, key)), what, mend)
        return
    name = dotted(path)
    if isinstance(fault, Wrong):
        yield Problem(file, _line(lines, path), f"{name}: {fault.what}", fault.mend)
    else:
        yield Problem(file, _line(lines, path), f"{name}: cannot be used", "see the configuration reference")


def _line(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return 0


def dotted(path: KeyPath) -> str:
    """A setting's name as it is written: ``relay."*.free.fr".tls``; list positions are left out."""
    return ".".join(
        part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'
        for part in path
        if isinstance(part, str)
    )


def _shown(value: Any) -> str:
    """A value as the operator wrote it, more or less."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value[:80]}"'
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return str(value)[:80]


def _amount(number: int, unit: str | None) -> str:
    if unit == "duration":
        for name, seconds in (("d", 86400), ("h", 3600), ("m", 60)):
            if number >= seconds and number % seconds == 0:
                return f'"{number // seconds}{name}"'
        return f'"{number}s"'
    if unit == "size":
        return f'"{number} B"'
    return str(number)


def _across(file: str, lines: Mapping[KeyPath, int], data: Mapping[str, Any]) -> Iterator[Problem]:
    """Faults between settings; looks at the raw data, so that they show beside the faults of single ones."""
    tls = data.get("tls")
    if isinstance(tls, dict) and bool(tls.get("certificate")) != bool(tls.get("key")):
        have, lack = ("certificate", "key") if tls.get("certificate") else ("key", "certificate")
        mend = f'add {lack} = "..." to [tls]'
        yield Problem(file, _line(lines, ("tls", have)), f"tls.{have} is given without tls.{lack}", mend)
    queue = data.get("queue")
    if isinstance(queue, dict) and queue.get("retry") == []:
        line = _line(lines, ("queue", "retry"))
        yield Problem(file, line, "queue.retry: the list is empty", 'name one wait at least: ["5m"]')
    seen: dict[str, str] = {}
    listen = data.get("listen")
    for door, endpoints in listen.items() if isinstance(listen, dict) else ():
        for index, endpoint in enumerate(endpoints if isinstance(endpoints, list) else ()):
            if not isinstance(endpoint, str) or endpoint.partition(":")[0] == "systemd":
                continue
            if door == "metrics" and not values.bound_to_loopback(endpoint):
                mend = (
                    "write 'tcp:9187:interface=127.0.0.1'; from elsewhere it is reached through ssh or a VPN"
                )
                what = f'listen.metrics: "{endpoint}" shows the numbers to others than this machine'
                yield Problem(file, _line(lines, ("listen", door, index)), what, mend)
            where = f"{endpoint}/{'udp' if door == 'dns' else 'tcp'}"
            if where in seen and not endpoint.startswith("tcp:0"):
                what = f'"{endpoint}" is given to the doors {seen[where]} and {door}'
                yield Problem(
                    file, _line(lines, ("listen", door, index)), what, "one door a port: change one"
                )
            seen.setdefault(where, door)
    for name in ("local_domains", "relay_domains", "relay_networks"):
        elements = data.get(name)
        first: set[str] = set()
        for index, element in enumerate(elements if isinstance(elements, list) else ()):
            if isinstance(element, str) and element.lower() in first:
                line = _line(lines, (name, index))
                yield Problem(file, line, f'{name}: "{element}" stands there twice', "keep one of them")
            first.add(str(element).lower())
