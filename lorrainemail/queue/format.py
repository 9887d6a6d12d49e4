"""The form of a queue item on disk. Two files an item, readable with ordinary tools:

``queue/<id>.msg``
    the message in wire form (CRLF), exactly as the next hop will get it before dot-stuffing;
``queue/<id>.json``
    everything else, one JSON object on one line::

        {"format": 1, "id": "...", "queued_at": 1790000000.0, "age": 0.0, "size": 4711, "eight_bit": false,
         "door": "submission", "account": "carole@elorac.fr", "trusted": true,
         "client": {"ADDR": "192.0.2.7", "HELO": "client.example", ...},
         "envelope": {"sender": "carole@elorac.fr" | null, "size": 0, "body": "8BITMIME", "smtputf8": false,
                      "ret": "", "envid": "", "parameters": [["SIZE", "4711"], ...],
                      "received_at": 1790000000.0, "hops": 0, "sender_verified": true},
         "recipients": [{"courier": "remote", "address": "bob@bricoleur.com", "original": "...",
                         "notify": ["FAILURE"] | null, "orcpt": "", "parameters": [...], "folder": "",
                         "forwarded": false, "state": "waiting" | "held" | "done", "attempts": 0,
                         "next_try": 0.0, "last_reply": "", "delay_told": false,
                         "argument": "", "user": "", "owner": "owner-list@bricoleur.com"}, ...]}

``age`` is the seconds for which a server was up with the item, negative before its ``release_at`` (RFC
4865; only in items that have one); ``next_try`` and the other instants are seconds since the epoch.
``client``, where it is known, says in the attributes of XFORWARD whom the message came from. ``envelope``
has no recipients of its own: those of a queue item are the ones that the queue must serve. Missing keys
take their defaults, unknown ones are ignored, so that files of an older or slightly newer version are read;
a change that an older version would misread raises ``format``.

The spool (:mod:`lorrainemail.queue.spool`) is the only caller. Pure. Fails with :class:`FormatError`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final

import attrs

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.envelope import Envelope, Parameter, Recipient
from lorrainemail.interfaces import QueueItem, QueueRecipient

#: What this version writes, and the newest that it reads.
FORMAT: Final = 1
#: The courier's name of recipients whose message waits for its sender's time.
FUTURE: Final = "future"
#: A JSON file longer than this is none of ours (some 1000 recipients with all parameters need a tenth).
MAX_OCTETS: Final = 16 << 20
#: What an id may look like: it becomes a file name.
ID: Final = re.compile(r"[0-9A-Za-z]{1,64}\Z")


_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


class FormatError(ValueError):
    """The octets are no queue item that this version can read; the message says why."""


class NewerFormat(FormatError):
    """Written by a newer version: to be left alone."""


@attrs.frozen(slots=True)
class Stored:
    """A queue item as it lies on disk.

    :ivar eight_bit: the message has octets over 127.
    :ivar age: seconds for which a server was up with it when this was written.
    """

    item: QueueItem
    eight_bit: bool = False
    age: float = 0.0


def encode(stored: Stored) -> bytes:
    """The JSON file's octets."""
    item = stored.item
    envelope = item.envelope
    document = {
        "format": FORMAT,
        "id": envelope.id,
        "queued_at": item.queued_at,
        "age": round(stored.age, 1),
        "size": item.size,
        "eight_bit": stored.eight_bit,
        "door": item.door,
        "account": item.account,
        "trusted": item.trusted,
        "envelope": {
            "sender": None if envelope.sender is None else str(envelope.sender),
            "size": envelope.size,
            "body": envelope.body,
            "smtputf8": envelope.smtputf8,
            "ret": envelope.ret,
            "envid": envelope.envid,
            "parameters": _pairs(envelope.parameters),
            "received_at": envelope.received_at,
            "hops": envelope.hops,
            "sender_verified": envelope.sender_verified,
        },
        "recipients": [_recipient_out(recipient) for recipient in item.recipients],
    }
    if item.release_at:
        document["release_at"] = item.release_at
    if item.client:
        document["client"] = dict(item.client)
    return _ENCODER.encode(document).encode("ascii") + b"\n"


def _recipient_out(one: QueueRecipient) -> dict[str, Any]:
    recipient = one.recipient
    return {
        "courier": one.courier,
        "address": str(recipient.address),
        "original": recipient.original,
        "notify": None if recipient.notify is None else list(recipient.notify),
        "orcpt": recipient.orcpt,
        "parameters": _pairs(recipient.parameters),
        "folder": one.folder,
        "forwarded": one.forwarded,
        "state": one.state,
        "attempts": one.attempts,
        "next_try": _never_before(one.next_try),
        "last_reply": one.last_reply,
        "delay_told": one.delay_told,
        **({"argument": one.argument} if one.argument else {}),
        **({"user": one.user} if one.user else {}),
        **({"owner": str(one.owner)} if one.owner is not None else {}),
    }


def _never_before(instant: float) -> float:
    """In tenths of a second, rounded up: mail that was asked to wait must not leave early (RFC 4865 §3)."""
    return math.ceil(instant * 10) / 10 if math.isfinite(instant) else instant


def _pairs(parameters: Sequence[Parameter]) -> list[list[str | None]]:
    return [[parameter.keyword, parameter.value] for parameter in parameters]


def decode(octets: bytes) -> Stored:
    """What :func:`encode` wrote.

    :raises NewerFormat: where a newer version wrote it.
    :raises FormatError: where it is damaged.
    """
    try:
        document = json.loads(octets)
        version = document["format"]
        if not isinstance(version, int) or version < 1:
            raise FormatError("no format version")
        if version > FORMAT:
            raise NewerFormat(f"format {version}, written by a newer version")
        return _decode(document)
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{type(error).__name__}: {error}") from error


def peek(octets: bytes) -> tuple[str, float, float]:
    """Id, age and the earliest next try (infinite where nothing waits): all that the spool keeps in memory.

    Cheaper than :func:`decode`, which judges the rest when the item's turn comes; fails like it.
    """
    try:
        document = json.loads(octets)
        version = document["format"]
        if not isinstance(version, int) or version < 1:
            raise FormatError("no format version")
        if version > FORMAT:
            raise NewerFormat(f"format {version}, written by a newer version")
        tries = [
            float(one.get("next_try", 0.0))
            for one in document["recipients"]
            if one.get("state", "waiting") == "waiting"
        ]
        return _text(document["id"]), float(document.get("age", 0.0)), min(tries, default=math.inf)
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{type(error).__name__}: {error}") from error


def _decode(document: dict[str, Any]) -> Stored:
    about = document["envelope"]
    recipients = tuple(map(_recipient_in, document["recipients"]))
    if not recipients:
        raise FormatError("no recipients")
    identity = _text(document["id"])
    if not ID.match(identity):
        raise FormatError("malformed id")
    envelope = Envelope(
        id=identity,
        sender=None if about["sender"] is None else _address(about["sender"]),
        recipients=tuple(one.recipient for one in recipients),
        size=int(about.get("size", 0)),
        body=_text(about.get("body", "7BIT")),
        smtputf8=bool(about.get("smtputf8", False)),
        ret=_text(about.get("ret", "")),
        envid=_text(about.get("envid", "")),
        parameters=_parameters(about.get("parameters", ())),
        received_at=float(about.get("received_at", 0.0)),
        hops=int(about.get("hops", 0)),
        sender_verified=bool(about.get("sender_verified", False)),
    )
    item = QueueItem(
        envelope=envelope,
        recipients=recipients,
        queued_at=float(document["queued_at"]),
        size=int(document["size"]),
        door=_text(document.get("door", "")),
        account=_text(document.get("account", "")),
        trusted=bool(document.get("trusted", document.get("account"))),
        release_at=float(document.get("release_at", 0.0)),
        client=tuple((_text(name), _text(value)) for name, value in document.get("client", {}).items()),
    )
    return Stored(item, bool(document.get("eight_bit", False)), float(document.get("age", 0.0)))


def _recipient_in(one: dict[str, Any]) -> QueueRecipient:
    state = one.get("state", "waiting")
    if state not in ("waiting", "held", "done"):
        raise FormatError("unknown state of a recipient")
    notify = one.get("notify")
    return QueueRecipient(
        courier=_text(one["courier"]),
        recipient=Recipient(
            address=_address(one["address"]),
            original=_text(one.get("original", "")),
            notify=None if notify is None else tuple(map(_text, notify)),
            orcpt=_text(one.get("orcpt", "")),
            parameters=_parameters(one.get("parameters", ())),
        ),
        folder=_text(one.get("folder", "")),
        forwarded=bool(one.get("forwarded", False)),
        state=state,
        attempts=int(one.get("attempts", 0)),
        next_try=float(one.get("next_try", 0.0)),
        last_reply=_text(one.get("last_reply", "")),
        delay_told=bool(one.get("delay_told", False)),
        argument=_text(one.get("argument", "")),
        user=_text(one.get("user", "")),
        owner=_address(one["owner"]) if one.get("owner") else None,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise FormatError("a text was expected")
    return value


def _address(text: object) -> Address:
    address = _text(text)
    if "@" not in address:  # RFC 5321 §4.1.1.3: the bare postmaster
        return Address(address, "")
    try:
        return parse_address(address)
    except AddressError as error:
        raise FormatError(f"{address!r}: {error}") from None


def _parameters(pairs: Sequence[Sequence[str | None]]) -> tuple[Parameter, ...]:
    found = []
    for keyword, value in pairs:
        found.append(Parameter(_text(keyword), None if value is None else _text(value)))
    return tuple(found)
