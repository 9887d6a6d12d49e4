"""Single values of the configuration: of their kind, within their bounds, or a fault in operators' words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from cattrs import IterableValidationError, IterableValidationNote

from lorrainemail.config import values
from lorrainemail.config.values import Wrong

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

#: The state directory of the text that is being read.
relative_to: ContextVar[str] = ContextVar("lorrainemail.config.load")


def boolean(value: Any) -> bool:
    """True or false, and nothing that is like them."""
    if not isinstance(value, bool):
        raise Wrong(f"{shown(value)} is neither true nor false", "write true or false, without quotes")
    return value


def choice(choices: tuple[Any, ...]) -> Callable[[Any], Any]:
    """The reader of one of these words."""
    words = " or ".join(f'"{choice}"' for choice in choices)

    def read(value: Any) -> Any:
        if value not in choices or not isinstance(value, str):
            raise Wrong(f"{shown(value)} is not among the choices", f"write {words}")
        return value

    return read


def number(metadata: Mapping[str, Any]) -> Callable[[Any], int]:
    """The reader of a number, a size or a duration, as :func:`lorrainemail.config.doc.doc` bounds it."""
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
            raise Wrong(f"{shown(value)} is a size without its unit", 'write for example "50 MB" or "64 MiB"')
        elif unit == "duration":
            raise Wrong(f"{shown(value)} is a duration without its unit", 'write for example "5m" or "5d"')
        else:
            raise Wrong(f"{shown(value)} is no whole number", "write a number without quotes")
        if number < least:
            raise Wrong(f"{shown(value)} is too small", f"the least is {_amount(least, unit)}")
        if number > most:
            raise Wrong(f"{shown(value)} is too large", f"the most is {_amount(most, unit)}")
        return number

    return read


def string(kind: str) -> Callable[[Any], str]:
    """The reader of a text of that kind."""

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise Wrong(f"{shown(value)} is no text", 'write it in quotes: "..."')
        if len(value) > values.MAX_WORD or "\0" in value:
            raise Wrong(
                "the text is too long or has a null character", f"at most {values.MAX_WORD} characters"
            )
        if kind in ("path", "state"):
            return os.path.normpath(os.path.join(relative_to.get(), value)) if value else ""
        return _KINDS[kind](value)

    return read


def sequence(value: Any, one: Callable[[Any], Any]) -> tuple[Any, ...]:
    """A list, each element read by ``one``."""
    if not isinstance(value, list):
        mend = f'["{value}"]' if isinstance(value, str) else "[...]"
        raise Wrong(f"{shown(value)} stands where a list belongs", f"write it in brackets: {mend}")
    return tuple(each(enumerate(value), one, "list").values())


def each(items: Iterable[tuple[Any, Any]], one: Callable[[Any], Any], name: str) -> dict[Any, Any]:
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


def shown(value: Any) -> str:
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
