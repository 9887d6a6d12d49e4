"""What is wrong with a configuration, each fault with its line: of single settings, and between settings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from cattrs import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)

from lorrainemail.config import values
from lorrainemail.config.doc import KeyPath
from lorrainemail.config.values import Wrong
from lorrainemail.errors import Problem


def faults(error: Exception, path: KeyPath) -> Iterator[tuple[KeyPath, Exception]]:
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
            yield from faults(inner, path + step)
    else:
        yield path, error


def problems_of(
    file: str, lines: Mapping[KeyPath, int], path: KeyPath, fault: Exception
) -> Iterator[Problem]:
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


def across(file: str, lines: Mapping[KeyPath, int], data: Mapping[str, Any]) -> Iterator[Problem]:
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
