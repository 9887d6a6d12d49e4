"""DMARC aggregate reports as values and as XML, both ways (RFC 9990 §3). Pure.

:func:`to_xml` writes ours; :func:`from_octets` reads whatever somebody sends: XML, gzip, or a zip archive of
one of them. Hostile input is bounded before it is looked at: :data:`MAX_PACKED` octets come in, at most
:data:`MAX_XML` come out of any packing, a document type or entity is refused unread. It is read piece by
piece (the interpreter is not held for long), only one record is in memory as elements, and at most
:data:`MAX_RECORDS` are kept. Reports of before RFC 9990 (no namespace, or another) are read too.
"""

from __future__ import annotations

import gzip
import io
import ipaddress
import re
import xml.etree.ElementTree as ElementTree
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, Final
from xml.sax.saxutils import escape

import attrs

#: Octets of a report as it comes, and unpacked.
MAX_PACKED: Final = 10 * 10**6
MAX_XML: Final = 40 * 10**6
#: Records of one report, results of one method in a record, and characters of one text.
MAX_RECORDS: Final = 20_000
MAX_RESULTS: Final = 20
MAX_TEXT: Final = 255
#: Octets that are read at once; elements of one record, and how deep they may lie.
STEP: Final = 64 * 1024
MAX_ELEMENTS: Final = 5000
MAX_DEPTH: Final = 32
#: Files of an archive.
MAX_FILES: Final = 100
#: Seconds that a report may cover; a larger span is nonsense.
MAX_SPAN: Final = 40 * 86400

NAMESPACE: Final = "urn:ietf:params:xml:ns:dmarc-2.0"

_FORBIDDEN = re.compile(rb"<!(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_DOMAIN = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,252}[a-z0-9_])?\Z")
_WORD = re.compile(r"[a-z_]{1,32}\Z")


class ReportFault(ValueError):
    """What came is no report, or none that may be read; the text says why."""


@attrs.frozen(slots=True)
class AuthResult:
    """What one method said of one domain. ``name``: the selector, or SPF's scope."""

    method: str
    domain: str
    result: str
    name: str = ""


@attrs.frozen(slots=True)
class Record:
    """Messages that look alike.

    :ivar disposition: what was done: "none" (or "pass"), "quarantine", "reject".
    :ivar dkim: whether an aligned signature passed; ``spf`` likewise.
    :ivar reason: why something else was done than the policy says: its type and words.
    """

    source: str
    count: int
    disposition: str
    dkim: bool
    spf: bool
    header_from: str
    envelope_from: str = ""
    reason: tuple[str, str] = ("", "")
    results: tuple[AuthResult, ...] = ()


@attrs.frozen(slots=True)
class Published:
    """The policy that was found, as its domain's record says it."""

    domain: str
    p: str = "none"
    sp: str = ""
    np: str = ""
    adkim: str = "r"
    aspf: str = "r"
    testing: bool = False
    fo: str = "0"


@attrs.frozen(slots=True)
class Report:
    """One report. ``begin`` and ``end``: seconds since the epoch."""

    organization: str
    email: str
    id: str
    begin: int
    end: int
    published: Published
    records: tuple[Record, ...]


# -- ours ------------------------------------------------------------------------------------------------


def to_xml(report: Report, generator: str) -> bytes:
    """The report as a document."""
    return "".join(_document(report, generator)).encode("utf-8")


def _document(report: Report, generator: str) -> Iterator[str]:
    published = report.published
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield f'<feedback xmlns="{NAMESPACE}">\n  <version>1.0</version>\n'
    yield "  <report_metadata>\n" + _elements(
        4, org_name=report.organization, email=report.email, report_id=report.id
    )
    yield f"    <date_range><begin>{report.begin}</begin><end>{report.end}</end></date_range>\n"
    yield _elements(4, generator=generator) + "  </report_metadata>\n  <policy_published>\n"
    yield _elements(
        4,
        domain=published.domain,
        discovery_method="treewalk",
        p=published.p,
        sp=published.sp,
        np=published.np,
        adkim=published.adkim,
        aspf=published.aspf,
        testing="y" if published.testing else "n",
        fo=published.fo,
    )
    yield "  </policy_published>\n"
    for record in report.records:
        yield "  <record>\n    <row>\n" + _elements(6, source_ip=record.source, count=str(record.count))
        yield "      <policy_evaluated>\n" + _elements(
            8,
            disposition=record.disposition,
            dkim="pass" if record.dkim else "fail",
            spf="pass" if record.spf else "fail",
        )
        if record.reason[0]:
            yield "        <reason>\n" + _elements(10, type=record.reason[0], comment=record.reason[1])
            yield "        </reason>\n"
        yield "      </policy_evaluated>\n    </row>\n    <identifiers>\n"
        yield _elements(6, header_from=record.header_from, envelope_from=record.envelope_from)
        yield "    </identifiers>\n    <auth_results>\n"
        for one in record.results:
            scope = {"selector": one.name} if one.method == "dkim" else {"scope": one.name}
            yield f"      <{one.method}>\n" + _elements(8, domain=one.domain, **scope, result=one.result)
            yield f"      </{one.method}>\n"
        yield "    </auth_results>\n  </record>\n"
    yield "</feedback>\n"


def _elements(indent: int, **texts: str) -> str:
    """Elements in order, empty ones left out."""
    return "".join(f"{' ' * indent}<{name}>{_text(text)}</{name}>\n" for name, text in texts.items() if text)


def _text(text: str) -> str:
    return escape("".join(c if c.isprintable() else "?" for c in text[:MAX_TEXT]))


def file_name(receiver: str, report: Report) -> str:
    """RFC 9990 §3.5.2."""
    unique = report.id.partition("@")[0]
    return f"{receiver}!{report.published.domain}!{report.begin}!{report.end}!{unique}.xml.gz"


# -- theirs ----------------------------------------------------------------------------------------------


def from_octets(octets: bytes) -> Report:
    """A report in any packing.

    :raises ReportFault: where it is none.
    """
    if len(octets) > MAX_PACKED:
        raise ReportFault(f"larger than {MAX_PACKED} octets")
    document = unpacked(octets)
    if _FORBIDDEN.search(document) or _FORBIDDEN.search(document.replace(b"\0", b"")):
        raise ReportFault("it has a document type of its own")
    try:
        root, records = _read(document)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        if isinstance(error, ReportFault):
            raise
        raise ReportFault(f"no XML: {error}") from None
    if _local(root) != "feedback":
        raise ReportFault("no feedback report")
    return _report(root, records)


def _read(document: bytes) -> tuple[ElementTree.Element, tuple[Record, ...]]:
    """The document without its records, and those."""
    parser: Any = ElementTree.XMLPullParser(("start", "end"))
    path: list[ElementTree.Element] = []
    root: ElementTree.Element | None = None
    records: list[Record] = []
    elements = 0
    for position in range(0, len(document), STEP):
        parser.feed(document[position : position + STEP])
        for event, element in parser.read_events():
            if event == "start":
                path.append(element)
                elements += 1
                if elements > MAX_ELEMENTS or len(path) > MAX_DEPTH:
                    raise ReportFault("it has too many elements")
                root = root if root is not None else element
                continue
            path.pop()
            if len(path) == 1 and _local(element) not in ("report_metadata", "policy_published"):
                if _local(element) == "record" and len(records) < MAX_RECORDS:
                    records.append(_record(element))
                path[0].remove(element)
                elements = 0
    parser.close()
    if root is None:
        raise ReportFault("it is empty")
    return root, tuple(records)


def unpacked(octets: bytes) -> bytes:
    """What gzip or zip holds, bounded; other octets as they are.

    :raises ReportFault: where it is damaged, or too large.
    """
    try:
        if octets.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(octets)) as file:
                return _bounded(file.read(MAX_XML + 1))
        if octets.startswith(b"PK"):
            if octets.count(b"PK\x01\x02") > MAX_FILES:
                raise ReportFault(f"the archive has more than {MAX_FILES} files")
            with zipfile.ZipFile(io.BytesIO(octets)) as archive:
                names = [one for one in archive.infolist()[:10] if one.filename.lower().endswith(".xml")]
                if not names:
                    raise ReportFault("the archive has no XML file")
                if names[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    # Others may ask for gigabytes to unpack.
                    raise ReportFault("the archive is packed in an unusual way")
                with archive.open(names[0]) as inner:
                    return _bounded(inner.read(MAX_XML + 1))
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ReportFault(f"damaged: {error}") from None
    return _bounded(octets)


def _bounded(octets: bytes) -> bytes:
    if len(octets) > MAX_XML:
        raise ReportFault(f"larger than {MAX_XML} octets when unpacked")
    return octets


def _local(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _children(element: ElementTree.Element | None, name: str) -> list[ElementTree.Element]:
    return [] if element is None else [child for child in element if _local(child) == name]


def _child(element: ElementTree.Element | None, *names: str) -> ElementTree.Element | None:
    for name in names:
        found = _children(element, name)
        element = found[0] if found else None
    return element


def _said(element: ElementTree.Element | None, *names: str) -> str:
    """The text at a path, printable and bounded, "" where there is none."""
    found = _child(element, *names)
    text = (found.text or "").strip()[:MAX_TEXT] if found is not None else ""
    return "".join(c if c.isprintable() else "?" for c in text)


def _domain(element: ElementTree.Element | None, *names: str) -> str:
    text = _said(element, *names).lower().rstrip(".")
    return text if _DOMAIN.match(text) else ""


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise ReportFault("a number is missing or wrong")
    return int(text)


def _word(text: str) -> str:
    lower = text.lower()
    return lower if _WORD.match(lower) else ""


def _report(root: ElementTree.Element, records: tuple[Record, ...]) -> Report:
    metadata, policy = _child(root, "report_metadata"), _child(root, "policy_published")
    begin = _number(_said(metadata, "date_range", "begin"))
    end = _number(_said(metadata, "date_range", "end"))
    domain = _domain(policy, "domain")
    if not domain:
        raise ReportFault("it names no domain")
    if not 0 <= end - begin <= MAX_SPAN:
        raise ReportFault("its dates make no sense")
    published = Published(
        domain,
        _word(_said(policy, "p")) or "none",
        _word(_said(policy, "sp")),
        _word(_said(policy, "np")),
        testing=_said(policy, "testing") == "y",
    )
    return Report(
        _said(metadata, "org_name"),
        _said(metadata, "email"),
        _said(metadata, "report_id"),
        begin,
        end,
        published,
        records,
    )


def _record(element: ElementTree.Element) -> Record:
    row = _child(element, "row")
    evaluated = _child(row, "policy_evaluated")
    try:
        source = str(ipaddress.ip_address(_said(row, "source_ip")))
    except ValueError:
        raise ReportFault("a record has no address") from None
    results = []
    for method in ("dkim", "spf"):
        for one in _children(_child(element, "auth_results"), method)[:MAX_RESULTS]:
            name = _said(one, "selector" if method == "dkim" else "scope")
            results.append(AuthResult(method, _domain(one, "domain"), _word(_said(one, "result")), name))
    return Record(
        source,
        _number(_said(row, "count")),
        _word(_said(evaluated, "disposition")) or "none",
        _said(evaluated, "dkim").lower() == "pass",
        _said(evaluated, "spf").lower() == "pass",
        _domain(element, "identifiers", "header_from"),
        _domain(element, "identifiers", "envelope_from"),
        (_word(_said(evaluated, "reason", "type")), _said(evaluated, "reason", "comment")),
        tuple(results),
    )
