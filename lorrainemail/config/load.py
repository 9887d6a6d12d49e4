"""Finds the configuration and reads it: every problem at once, each with file, line and mend.

:func:`locate` alone decides where configuration and state are, for the server and for every command;
:func:`load` turns the file into :class:`lorrainemail.config.model.Settings`, all paths in it absolute. Both
fail with :class:`lorrainemail.errors.ConfigurationError` and with nothing else. Called before the reactor
runs and at a reload; the file read is small and bounded.
"""

from __future__ import annotations

import functools
import os
import re
import socket
import tomllib
from collections.abc import Callable
from typing import Any, Final, Literal, NoReturn, get_args, get_origin

import attrs
from cattrs import (
    ClassValidationError,
    Converter,
)
from cattrs.gen import make_dict_structure_fn, override

from lorrainemail.config import values
from lorrainemail.config.default import default_settings
from lorrainemail.config.faults import across, faults, problems_of
from lorrainemail.config.lines import key_lines
from lorrainemail.config.model import DeliverRow, Settings
from lorrainemail.config.rows import TABLES, deliver_row, relay_row, rows, with_lines
from lorrainemail.config.scalars import boolean, choice, number, relative_to, sequence, shown, string
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
        reading = relative_to.set(state)
        try:
            settings = _converter().structure(data, Settings)
        finally:
            relative_to.reset(reading)
    except ClassValidationError as error:
        for path, fault in faults(error, ()):
            problems.extend(problems_of(file, lines, path, fault))
    problems.extend(across(file, lines, data))
    if settings is None or problems:
        problems.sort(key=lambda problem: problem.line)
        raise ConfigurationError(tuple(problems[:MAX_PROBLEMS]))
    return attrs.evolve(
        settings,
        hostname=settings.hostname or own_name(),
        state=state,
        file=file,
        lines=lines,
        relay=with_lines(settings.relay, data.get("relay", {}), lines, "relay"),
        unknown_users=with_lines(
            settings.unknown_users, data.get("unknown_users", {}), lines, "unknown_users"
        ),
        relay_by_sender=with_lines(
            settings.relay_by_sender, data.get("relay_by_sender", {}), lines, "relay_by_sender"
        ),
        deliver=with_lines(settings.deliver, data.get("deliver", {}), lines, "deliver"),
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
                raise Wrong(f"{shown(value)} stands where a table belongs", "write it as a [table]")
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
    table = TABLES.get(field.metadata.get("kind", ""))
    if table is not None:
        return lambda value, _: table(value, converter)
    if get_origin(kind) is dict and get_args(kind)[1] is DeliverRow:
        return lambda value, _: rows(value, values.parse_pattern, deliver_row, converter)
    if get_origin(kind) is dict:
        parse_key = values.parse_sender_pattern if field.name == "relay_by_sender" else values.parse_pattern
        return lambda value, _: rows(value, parse_key, relay_row, converter)
    one: Callable[[Any], Any]
    if get_origin(element) is Literal:
        one = choice(get_args(element))
    elif element is bool:
        one = boolean
    elif element is int:
        one = number(field.metadata)
    else:
        one = string(field.metadata.get("kind", ""))
    if element is kind:
        return lambda value, _: one(value)
    lone = field.metadata.get("kind") == "hop"  # a relay row's single host needs no list
    return lambda value, _: sequence([value] if lone and isinstance(value, str) else value, one)
