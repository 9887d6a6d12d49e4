"""Zone files (RFC 1035 §5.1) read whole: every fault at once, each with its line.

dnspython has the tokenizer and the form of each record type; the lines are walked here, because its own
reader stops at the first fault, says nothing of names outside the zone, and would follow ``$INCLUDE``.
Called by :func:`load_zones` at the start and at a reload. Fails with
:class:`~lorrainemail.errors.ConfigurationError` and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.tokenizer
import dns.ttl

from lorrainemail.dns.zones import Node, Zone, Zones
from lorrainemail.errors import ConfigurationError, Problem

#: A larger zone belongs on a name server proper.
MAX_FILE: Final = 16 * 2**20
#: Faults told at once.
MAX_PROBLEMS: Final = 100

_SEE: Final = "write: name [ttl] [IN] type data"


def load_zones(paths: Iterable[str]) -> Zones:
    """All zones of these files.

    :raises ConfigurationError: with every fault of every file.
    """
    zones: list[Zone] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            with open(path, "rb") as stream:
                octets = stream.read(MAX_FILE + 1)
            if len(octets) > MAX_FILE:
                raise ValueError("the zone file is too large")
            zone = parse_zone(octets.decode("utf-8"), path)
        except OSError as error:
            why = error.strerror or "unknown error"
            problems.append(Problem(path, 0, f"cannot be read: {why}", "check path and rights"))
        except UnicodeDecodeError:
            problems.append(Problem(path, 0, "is not UTF-8 text", "save it as UTF-8"))
        except ValueError as error:
            problems.append(Problem(path, 0, str(error), "serve it with a name server proper"))
        except ConfigurationError as error:
            problems.extend(error.problems)
        else:
            if any(zone.origin == other.origin for other in zones):
                problems.append(Problem(path, 0, f"zone {zone.origin} is in another file too", "remove one"))
            zones.append(zone)
    if problems:
        raise ConfigurationError(tuple(problems[:MAX_PROBLEMS]))
    return Zones(zones)


def parse_zone(text: str, where: str = "") -> Zone:
    """One zone. Its origin is the first ``$ORIGIN``, else the file's name without ``.zone``.

    :raises ConfigurationError: with every fault.
    """
    reader = _Reader(text, where)
    reader.read()
    if not reader.problems:
        reader.check()
    if reader.problems or reader.zone_origin is None:
        raise ConfigurationError(tuple(reader.problems[:MAX_PROBLEMS]))
    return Zone(reader.zone_origin, reader.nodes)


class _Fault(Exception):
    """One line's fault: what, and how to mend it."""

    def __init__(self, what: str, mend: str = _SEE) -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend


def _entries(text: str) -> Iterator[tuple[int, str]]:
    """The file's entries with their first line: a line each, more where parentheses are open.

    Each is then tokenized by itself, so that a fault in one never reaches into the next.
    """
    first, depth = 1, 0
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if depth == 0:
            first, lines = number, []
        lines.append(line)
        depth = max(0, depth + _opened(line))
        if depth == 0:
            yield first, "\n".join(lines) + "\n"
    if depth:
        yield first, "\n".join(lines) + "\n"


def _opened(line: str) -> int:
    """How many more parentheses the line opens than it closes."""
    count, quoted, escaped = 0, False, False
    for character in line:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif character == ";":
            break
        elif character in "()":
            count += 1 if character == "(" else -1
    return count


class _Reader:
    """The state of reading one file."""

    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self.problems: list[Problem] = []
        self.nodes: dict[dns.name.Name, Node] = {}
        self.zone_origin: dns.name.Name | None = None
        self._origin: dns.name.Name | None = None
        self._text = text
        self._tokens = dns.tokenizer.Tokenizer("", where)
        self._name: dns.name.Name | None = None
        self._ttl: int | None = None
        self._default_ttl: int | None = None
        self._first_lines: dict[dns.name.Name, int] = {}
        if where:
            stem = Path(where).name.removesuffix(".zone").removesuffix(".")
            try:
                self._origin = dns.name.from_text(stem + ".")
            except dns.exception.DNSException:
                self._origin = None

    def read(self) -> None:
        for line, text in _entries(self._text):
            self._tokens = dns.tokenizer.Tokenizer(text, self.where)
            try:
                token = self._tokens.get(want_leading=True)
                if not token.is_eol_or_eof():
                    self._entry(token, line)
            except _Fault as fault:
                self._problem(line, fault.what, fault.mend)
            except dns.exception.DNSException as error:
                self._problem(line, str(error) or type(error).__name__, _SEE)
            except (ValueError, OverflowError) as error:
                self._problem(line, f"malformed data: {error}", _SEE)
            if len(self.problems) >= MAX_PROBLEMS:
                return

    def check(self) -> None:
        """What must hold of the zone as a whole."""
        origin = self.zone_origin
        apex = self.nodes.get(origin, {}) if origin is not None else {}
        if dns.rdatatype.SOA not in apex:
            self._problem(
                0, "the zone has no SOA record", "begin it with: @ IN SOA ns mail serial 1h 10m 1w 5m"
            )
        if dns.rdatatype.NS not in apex:
            self._problem(0, "the zone has no NS record", "name its server: @ IN NS ns")
        for name, node in self.nodes.items():
            line = self._first_lines[name]
            if dns.rdatatype.CNAME in node and len(node) > 1:
                self._problem(line, f"{name} has a CNAME and other records", "keep one or the other")
            if name != origin and dns.rdatatype.SOA in node:
                self._problem(line, f"{name} has an SOA record inside the zone", "give it a file of its own")

    # -- one entry --

    def _entry(self, token: dns.tokenizer.Token, line: int) -> None:
        if token.is_identifier() and token.value.startswith("$"):
            self._directive(token.value.upper())
            return
        if token.is_whitespace():
            token = self._tokens.get()
            if token.is_eol_or_eof():
                return
            self._tokens.unget(token)
            if self._name is None:
                raise _Fault("the first record has no name", "begin the line with a name or @")
        else:
            self._name = self._tokens.as_name(token, self._origin)
            if not self._name.is_absolute():
                raise _Fault("the zone's name is not known", "begin the file with $ORIGIN example.org.")
        self._record(self._name, line)

    def _directive(self, word: str) -> None:
        if word == "$ORIGIN":
            origin = self._tokens.get_name(self._origin if self.zone_origin is not None else dns.name.root)
            self._tokens.get_eol()
            self._origin = origin
            if self.zone_origin is None:
                self.zone_origin = origin
        elif word == "$TTL":
            self._default_ttl = dns.ttl.from_text(self._tokens.get_identifier())
            self._tokens.get_eol()
        else:
            raise _Fault(f"{word} is not understood here", "write the records out")

    def _record(self, name: dns.name.Name, line: int) -> None:
        ttl: int | None = None
        word = self._tokens.get_identifier()
        for _ in range(2):
            # RFC 1035 §5.1: TTL and class in either order, both optional.
            if word.upper() == "IN":
                word = self._tokens.get_identifier()
            elif word[:1].isdigit():
                ttl = dns.ttl.from_text(word)
                word = self._tokens.get_identifier()
        if word.upper() in ("CH", "HS", "ANY"):
            raise _Fault(f"class {word} is not served", "write IN")
        try:
            kind = dns.rdatatype.from_text(word)
        except (dns.exception.DNSException, ValueError):
            raise _Fault(f'"{word}" is no record type') from None
        if dns.rdatatype.is_metatype(kind):
            raise _Fault(f"{word} is no type for a zone")
        data = dns.rdata.from_text(
            dns.rdataclass.IN, kind, self._tokens, self._origin, False, self.zone_origin
        )
        if self.zone_origin is None:
            self.zone_origin = self._origin
        if self.zone_origin is None or not name.is_subdomain(self.zone_origin):
            raise _Fault(f"{name} is outside the zone {self.zone_origin}", "put it into its own zone's file")
        if kind == dns.rdatatype.SOA and self._default_ttl is None:
            self._default_ttl = data.minimum  # type: ignore[attr-defined]
        if ttl is None:
            ttl = self._default_ttl if self._default_ttl is not None else self._ttl
        if ttl is None:
            raise _Fault("the record has no TTL", "put a $TTL 1h line at the top")
        self._ttl = ttl
        node = self.nodes.setdefault(name, {})
        self._first_lines.setdefault(name, line)
        if kind in node and dns.rdatatype.is_singleton(kind):
            raise _Fault(f"{name} has more than one {dns.rdatatype.to_text(kind)}", "keep one of them")
        if kind not in node:
            node[kind] = dns.rdataset.Rdataset(dns.rdataclass.IN, kind, ttl=ttl)
        node[kind].add(data, ttl)

    # -- faults --

    def _problem(self, line: int, what: str, mend: str) -> None:
        self.problems.append(Problem(self.where, line, what, mend))
