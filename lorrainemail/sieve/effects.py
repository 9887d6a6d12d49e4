"""What a script comes to, and what it may look at besides the message: plain values, no behaviour.

Made by :mod:`lorrainemail.sieve.run`, carried out by whoever ran the script (delivery; ``sieve test`` only
shows them).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from lorrainemail.addresses import Address

#: A week; what vacation and duplicate remember by default (RFC 5230 §4.1, RFC 7352 §3).
WEEK = 7 * 86400


@attrs.frozen(slots=True)
class Envelope:
    """The transaction's envelope as one recipient sees it; ``sender`` None is the null reverse-path."""

    sender: Address | None
    recipient: Address
    auth: str = ""


@attrs.frozen(slots=True)
class Version:
    """The message as the script had edited it: its header, and its body where that changed too."""

    header: bytes
    body: bytes | None = None


@attrs.frozen(slots=True)
class Keep:
    """Store in the folder that the recipient's address asks for."""

    flags: tuple[str, ...] = ()
    version: Version | None = None


@attrs.frozen(slots=True)
class FileInto:
    """Store in a folder.

    :ivar create: make it where it is missing (RFC 5490 §3.2).
    """

    folder: str
    flags: tuple[str, ...] = ()
    create: bool = False
    version: Version | None = None


@attrs.frozen(slots=True)
class Redirect:
    """Send on, under the same reverse-path."""

    address: Address
    version: Version | None = None


@attrs.frozen(slots=True)
class Reject:
    """Refuse it (RFC 5429); ``kind`` says which of the two actions it was."""

    kind: Literal["reject", "ereject"]
    text: str


@attrs.frozen(slots=True)
class Sent:
    """A message that the script wants to be sent: a vacation reply or a notification.

    :ivar message: the whole, in wire form.
    :ivar sender: its reverse-path, None for ``<>``.
    :ivar once: sent only where this key is not remembered; "" for always.
    :ivar seconds: how long it is remembered.
    :ivar copy: where a copy is filed (RFC 8580).
    """

    kind: Literal["vacation", "notify"]
    sender: Address | None
    recipients: tuple[Address, ...]
    message: bytes
    once: str = ""
    seconds: float = 0
    copy: FileInto | None = None


@attrs.frozen(slots=True)
class Remember:
    """The duplicate test met an id (RFC 7352): remember it, if the script ended well."""

    key: str
    seconds: float


Effect = Keep | FileInto | Redirect | Reject | Sent | Remember


@attrs.frozen(slots=True)
class Note:
    """One line of what a script did, for people."""

    line: int
    what: str
    script: str = ""


@attrs.frozen(slots=True)
class Result:
    """What a run came to.

    :ivar effects: in order. No Keep, FileInto, Redirect or Reject among them: the message is discarded.
    :ivar error: why the script ended early; the effects are then the implicit keep alone.
    :ivar notes: what each rule did, where that was asked for.
    """

    effects: tuple[Effect, ...]
    error: str = ""
    notes: tuple[Note, ...] = ()


@attrs.frozen(slots=True)
class Context:
    """What a script may ask beside the message.

    :ivar now: wall-clock seconds.
    :ivar addresses: folded addresses of the account, for vacation.
    :ivar separators: between user and detail of a local part.
    :ivar folders: the account's folders, lower-case special uses to each; empty where nothing needs them.
    :ivar metadata: annotations by folder ("" is the account) and lower-case entry (RFC 5490).
    :ivar remembered: keys of vacation and duplicate to when they are forgotten.
    :ivar environment: RFC 5183 items.
    :ivar spam: 0 to 100, None where nobody judged; ``virus`` 0 (not tested) to 5 (RFC 5235).
    :ivar flags: those that the message has already (RFC 6785 §3.2).
    :ivar identity: of this delivery, for message ids.
    """

    now: float = 0.0
    addresses: frozenset[str] = frozenset()
    separators: str = "+"
    folders: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    metadata: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)
    remembered: Mapping[str, float] = attrs.field(factory=dict)
    environment: Mapping[str, str] = attrs.field(factory=dict)
    spam: int | None = None
    virus: int = 0
    flags: tuple[str, ...] = ()
    identity: str = "sieve"
    hostname: str = "localhost"
