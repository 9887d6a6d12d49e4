"""TLS reports as values and as JSON, both ways (RFC 8460 §4). Pure.

:func:`to_json` writes ours; :func:`from_octets` reads whatever somebody sends, packed by gzip or not. Hostile
input is bounded before it is looked at: :data:`MAX_PACKED` octets come in, at most :data:`MAX_JSON` come
out of any packing (what JSON becomes in memory is some twenty times as much), and texts are cut and made
printable, because they end on somebody's terminal.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import unquote

import attrs

#: Octets of a report as it comes, and unpacked.
MAX_PACKED: Final = 1_000_000
MAX_JSON: Final = 2_000_000
#: Values of a document, as its signs tell: of more the interpreter would be busy for long with nobody served.
MAX_VALUES: Final = 60_000
#: Policies of one report, failures of one policy, lines of a policy, and characters of one text.
MAX_POLICIES: Final = 100
MAX_FAILURES: Final = 100
MAX_STRINGS: Final = 50
MAX_TEXT: Final = 300
#: Addresses that one domain's reports are sent to.
MAX_ADDRESSES: Final = 4
#: A count beyond this is nonsense.
MAX_COUNT: Final = 10**12

#: RFC 8460 calls a remark on a failure by two names, and a code often stands for one.
_REMARKS: Final = ("additional-information", "additional-info", "failure-reason-code")
_RECORD = re.compile(rb"v=TLSRPTv1[ \t]*;")


class ReportFault(ValueError):
    """What came is no report, or none that may be read; the text says why."""


@attrs.frozen(slots=True)
class Failed:
    """Sessions that failed alike (RFC 8460 §4.4, failure-details). ``type``: as in §4.3."""

    type: str
    count: int
    host: str = ""
    address: str = ""
    sender: str = ""
    info: str = ""


@attrs.frozen(slots=True)
class PolicyResults:
    """What sessions under one policy came to."""

    type: str
    domain: str
    good: int
    bad: int
    strings: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    failures: tuple[Failed, ...] = ()


@attrs.frozen(slots=True)
class TlsReport:
    """One report. ``begin`` and ``end``: seconds since the epoch."""

    organization: str
    contact: str
    id: str
    begin: int
    end: int
    policies: tuple[PolicyResults, ...]


# -- who wants reports -----------------------------------------------------------------------------------


def destinations(texts: Iterable[bytes]) -> tuple[str, ...]:
    """Where the records ``_smtp._tls`` of a domain want reports (RFC 8460 §3): ``mailto:`` and ``https:``
    addresses; none where there are no or several records."""
    ours = [text for text in texts if _RECORD.match(text)]
    if len(ours) != 1:
        return ()
    found: list[str] = []
    for field in ours[0].decode("utf-8", "replace").split(";"):
        name, _, value = field.partition("=")
        if name.strip() == "rua":
            found += [one.strip() for one in value.split(",")]
    known = [one for one in found if one.lower().startswith(("mailto:", "https://"))]
    return tuple(dict.fromkeys(known))[:MAX_ADDRESSES]


def mailbox_of(uri: str) -> str:
    """The address in a ``mailto:`` URI."""
    return unquote(uri[len("mailto:") :].partition("?")[0]).strip()


# -- ours ------------------------------------------------------------------------------------------------


def to_json(report: TlsReport) -> bytes:
    """The report as a document."""
    return json.dumps(_plain(report), separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _plain(report: TlsReport) -> dict[str, Any]:
    return {
        "organization-name": report.organization,
        "date-range": {"start-datetime": _when(report.begin), "end-datetime": _when(report.end)},
        "contact-info": report.contact,
        "report-id": report.id,
        "policies": [
            {
                "policy": _without_empty(
                    {
                        "policy-type": one.type,
                        "policy-string": list(one.strings),
                        "policy-domain": one.domain,
                        "mx-host": list(one.hosts),
                    }
                ),
                "summary": {
                    "total-successful-session-count": one.good,
                    "total-failure-session-count": one.bad,
                },
                "failure-details": [
                    _without_empty(
                        {
                            "result-type": failed.type,
                            "sending-mta-ip": failed.sender,
                            "receiving-mx-hostname": failed.host,
                            "receiving-ip": failed.address,
                            "failed-session-count": failed.count,
                            "additional-information": failed.info,
                        }
                    )
                    for failed in one.failures
                ],
            }
            for one in report.policies
        ],
    }


def _without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in ("", [])}


def _when(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def file_name(submitter: str, domain: str, report: TlsReport) -> str:
    """RFC 8460 §5.1."""
    unique = report.id.partition("@")[0]
    return f"{submitter}!{domain}!{report.begin}!{report.end}!{unique}.json.gz"


# -- theirs ----------------------------------------------------------------------------------------------


def from_octets(octets: bytes) -> TlsReport:
    """A report, packed or not.

    :raises ReportFault: where it is none.
    """
    if len(octets) > MAX_PACKED:
        raise ReportFault(f"larger than {MAX_PACKED} octets")
    try:
        if octets.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(octets)) as file:
                octets = file.read(MAX_JSON + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ReportFault(f"damaged: {error}") from None
    if len(octets) > MAX_JSON:
        raise ReportFault(f"larger than {MAX_JSON} octets when it is unpacked")
    return from_json(octets)


def from_json(octets: bytes) -> TlsReport:
    """A report whose size is bounded already.

    :raises ReportFault: where it is none.
    """
    if sum(octets.count(sign) for sign in (b"[", b"{", b",")) > MAX_VALUES:
        raise ReportFault(f"it has more than {MAX_VALUES} values")
    try:
        document = json.loads(octets)
    except (ValueError, RecursionError):
        raise ReportFault("no JSON") from None
    fields = _mapping(document, "it")
    period = _mapping(fields.get("date-range"), "its date-range")
    policies = fields.get("policies")
    if not isinstance(policies, list):
        raise ReportFault("it has no policies")
    return TlsReport(
        _text(fields.get("organization-name")),
        _text(fields.get("contact-info")),
        _text(fields.get("report-id")),
        _seconds(period.get("start-datetime")),
        _seconds(period.get("end-datetime")),
        tuple(_policy(one) for one in policies[:MAX_POLICIES]),
    )


def _policy(value: Any) -> PolicyResults:
    row = _mapping(value, "a policy")
    policy = _mapping(row.get("policy"), "a policy")
    summary = _mapping(row.get("summary"), "a summary")
    details = row.get("failure-details")
    return PolicyResults(
        _text(policy.get("policy-type")),
        _text(policy.get("policy-domain")).lower().rstrip("."),
        _count(summary.get("total-successful-session-count")),
        _count(summary.get("total-failure-session-count")),
        _texts(policy.get("policy-string")),
        _texts(policy.get("mx-host")),
        tuple(_failed(one) for one in details[:MAX_FAILURES]) if isinstance(details, list) else (),
    )


def _failed(value: Any) -> Failed:
    row = _mapping(value, "a failure")
    return Failed(
        _text(row.get("result-type")),
        _count(row.get("failed-session-count")),
        _text(row.get("receiving-mx-hostname")),
        _text(row.get("receiving-ip")),
        _text(row.get("sending-mta-ip")),
        _text(
            row.get("additional-information") or row.get("additional-info") or row.get("failure-reason-code")
        ),
    )


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ReportFault(f"{what} is no object")
    return cast(dict[str, Any], value)


def _text(value: Any) -> str:
    text = str(value) if isinstance(value, str | int) else ""
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_TEXT])


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value] if isinstance(value, str) else []
    return tuple(_text(one) for one in values[:MAX_STRINGS])


def _count(value: Any) -> int:
    return min(max(value, 0), MAX_COUNT) if isinstance(value, int) else 0


def _seconds(value: Any) -> int:
    try:
        when = datetime.fromisoformat(_text(value).replace("Z", "+00:00"))
        return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise ReportFault("its date-range has no dates") from None
