"""What mail that is to be moved in looks like, wherever it comes from.

A :class:`Source` lists its folders; of a folder it first tells the messages' marks, so that what was taken
before is not even read, and then the octets of those that are wanted, few at a time. Everything here is
blocking. Failures: :class:`SourceError` with words for the operator; a message that is gone meanwhile is left
out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import attrs

from lorrainemail.errors import MailError
from lorrainemail.store.paths import MAX_DEPTH, canonical_name

#: Octets of one chunk of a message.
CHUNK: Final = 1 << 18


class SourceError(Exception):
    """A source cannot be read; the message is for the operator."""


@attrs.frozen(slots=True)
class SourceFolder:
    """One folder.

    :ivar name: as it is to be called here.
    :ivar place: where the source finds it.
    :ivar uid_validity: 0 where the source gives no UIDs.
    :ivar uid_next: 0 where it is not known.
    :ivar special_use: RFC 6154.
    """

    name: str
    place: str
    uid_validity: int = 0
    uid_next: int = 0
    special_use: tuple[str, ...] = ()
    subscribed: bool = False


@attrs.frozen(slots=True)
class Mark:
    """A message that has not been read yet.

    :ivar key: tells it from every other one of this source, now and in later runs.
    :ivar place: where the source finds it.
    """

    key: str
    place: str
    uid: int = 0


@attrs.frozen(slots=True)
class Message:
    """A message.

    :ivar octets: calls for its octets, in wire form or with LF alone, as ``wire`` says; may be called again.
    :ivar date: the internal date.
    :ivar order: of messages of one second.
    :ivar email_id: the EMAILID (RFC 8474) that it is to have, "" for a new one.
    """

    mark: Mark
    flags: tuple[str, ...]
    date: int
    order: int
    uid: int
    wire: bool
    octets: Callable[[], Iterator[bytes]]
    email_id: str = ""


class Source(Protocol):
    """Mail of one account, elsewhere."""

    def folders(self) -> Sequence[SourceFolder]:
        """All folders, INBOX first."""

    def marks(self, folder: SourceFolder) -> Sequence[Mark]:
        """All messages of a folder, in the order in which they are to get UIDs."""

    def messages(self, folder: SourceFolder, marks: Sequence[Mark]) -> Iterator[Message]:
        """These messages, without those that are gone. Each is used before the next is asked for."""

    def close(self) -> None:
        """Let go of it."""


def fitting_name(parts: Sequence[str]) -> str:
    """A folder's name as it can be here: what cannot be in a name becomes "_".

    :raises SourceError: where it is too long all the same.
    """
    clean = []
    for part in parts:
        word = "".join("_" if c == "/" or not c.isprintable() else c for c in part)
        clean.append(word or "_")
    if len(clean) > MAX_DEPTH:
        clean = [*clean[: MAX_DEPTH - 1], "_".join(clean[MAX_DEPTH - 1 :])]
    try:
        return canonical_name("/".join(clean))
    except MailError as error:
        raise SourceError(f"the folder {'/'.join(parts)} cannot be kept: {error.reply.text}") from None


def as_wire(message: Message) -> Iterator[bytes]:
    """The octets in wire form: as they are where the source has that, else with CRLF for each lone LF."""
    if message.wire:
        yield from message.octets()
        return
    held = b""
    for chunk in message.octets():
        data = held + chunk
        held = b"\r" if data.endswith(b"\r") else b""
        data = data[: len(data) - len(held)]
        yield data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    if held:
        yield held
