"""A running IMAP server as a source, read only (EXAMINE, BODY.PEEK), in a thread that may block.

On :mod:`imaplib`, with what it lacks: bounds on what a server may send, names of folders decoded, the
personal namespace's prefix taken off, large messages fetched in parts, a lost connection made anew. TLS is
verified always; without it only loopback is spoken to. Works with RFC 3501 servers of any age; nothing else
is asked for (SPECIAL-USE is used where a server tells it). Failures: SourceError with the server's words.
"""

from __future__ import annotations

import contextlib
import imaplib
import ipaddress
import re
import socket
import ssl
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import IO, Any, Final, Literal, TypeVar

import attrs

from lorrainemail.store.paths import decode_utf7
from lorrainemail.transfer.sources import CHUNK, Mark, Message, SourceError, SourceFolder, fitting_name

#: Seconds without an answer after which a connection is lost.
TIMEOUT: Final = 120.0
#: Times at which one command is tried again over a new connection.
ATTEMPTS: Final = 3
#: Octets of one answer of the server, what was asked for not counted.
MAX_ANSWER: Final = 32 << 20
#: Octets of messages that are asked for at once; a message above it comes in parts of that size.
AT_ONCE: Final = 4 << 20
#: Octets of the largest message.
MAX_MESSAGE: Final = 1 << 30
#: UIDs of one question.
PAGE: Final = 200
LISTED: Final = 2000
#: Folders of one account.
MAX_FOLDERS: Final = 10_000

_UID: Final = re.compile(rb"\bUID ([0-9]{1,10})\b")
_SIZE: Final = re.compile(rb"\bRFC822\.SIZE ([0-9]{1,15})\b")
_FLAGS: Final = re.compile(rb"\bFLAGS \(([^()]*)\)")
_DATE: Final = re.compile(rb'\bINTERNALDATE "([^"]{20,40})"')
_LISTED: Final = re.compile(rb'\(([^()]*)\) (?:"(\\?.)"|NIL) ?(.*)', re.DOTALL)
_STATUS: Final = re.compile(rb"([A-Z]+) ([0-9]+)")
_PERSONAL: Final = re.compile(rb'\(\("((?:[^"\\]|\\.)*)" (?:"(\\?.)"|NIL)')
#: Special uses of folders whose messages stand in others, too (RFC 6154).
VIRTUAL: Final = frozenset(("\\all", "\\flagged", "\\important"))

T = TypeVar("T")
Security = Literal["tls", "starttls", "none"]


@attrs.frozen(slots=True)
class Login:
    """Where and who.

    :ivar authority: a file of authorities to trust besides the system's, "" for none.
    """

    host: str
    port: int
    security: Security
    user: str
    password: str = attrs.field(repr=False)
    authority: str = ""


class _TooMuch(imaplib.IMAP4.abort):
    """The server sends more than it was asked for."""


def _bounded(base: type[imaplib.IMAP4]) -> type[Any]:
    """imaplib's client with a bound on what one answer may hold."""

    class Bounded(base):  # type: ignore[misc, valid-type]
        allowed = MAX_ANSWER
        _came = 0

        def asks(self, octets: int) -> None:
            """The next answer may hold so much."""
            self.allowed = MAX_ANSWER + octets
            self._came = 0

        def read(self, size: int) -> bytes:
            self._count(size)
            data: bytes = super().read(size)
            return data

        def readline(self) -> bytes:
            line: bytes = super().readline()
            self._count(len(line))
            return line

        def _count(self, octets: int) -> None:
            self._came += octets
            if self._came > self.allowed:
                raise _TooMuch("the server sends more than it was asked for")

    return Bounded


_Plain = _bounded(imaplib.IMAP4)
_Secure = _bounded(imaplib.IMAP4_SSL)


class ImapSource:
    """One account of a server.

    :param spill: where large messages are put on their way.
    :raises SourceError: where one cannot log in.
    """

    def __init__(self, login: Login, spill: str) -> None:
        self._login = login
        self._spill = spill
        self._client: Any = None
        self._selected = ""
        self._exists = 0
        self._connected()

    # -- the source ------------------------------------------------------------------------------------

    def folders(self) -> Sequence[SourceFolder]:
        prefix, _ = self._namespace()
        listed = self._ask(lambda client: client.list('""', _quoted(f"{prefix}*") if prefix else '"*"'))
        if prefix:
            listed = [*self._ask(lambda client: client.list('""', '"INBOX"')), *listed]
        subscribed = {name for name, _, _ in _names(self._ask(lambda client: client.lsub('""', '"*"')))}
        found: dict[str, SourceFolder] = {}
        for raw, attributes, delimiter in _names(listed)[:MAX_FOLDERS]:
            lowered = {word.lower() for word in attributes}
            if lowered & {"\\noselect", "\\nonexistent"} or lowered & VIRTUAL:
                continue
            plain = raw
            if raw.upper() != "INBOX" and prefix and raw.startswith(prefix):
                plain = raw[len(prefix) :]
            parts = plain.split(delimiter) if delimiter else [plain]
            name = fitting_name([decode_utf7(part) or part for part in parts])
            if name in found:
                continue
            uses = tuple(word for word in attributes if word.lower() in _USES)
            # UIDVALIDITY comes with the folder's opening; not all of them are opened.
            found[name] = SourceFolder(name, raw, 0, 0, uses, raw in subscribed)
        if "INBOX" not in found:
            found["INBOX"] = SourceFolder("INBOX", "INBOX")
        ordered = [found["INBOX"], *(found[name] for name in sorted(found) if name != "INBOX")]
        return _Dated(self, ordered)

    def with_uids(self, folder: SourceFolder) -> SourceFolder:
        """The same with its UIDVALIDITY."""
        try:
            answer = self._ask(lambda client: client.status(_quoted(folder.place), "(UIDVALIDITY UIDNEXT)"))
        except SourceError:
            return folder  # its opening will say why
        told = _joined(answer).rpartition(b"(")[2]
        values = {word: int(number[:11]) for word, number in _STATUS.findall(told)}
        return attrs.evolve(
            folder,
            uid_validity=min(values.get(b"UIDVALIDITY", 0), 2**32 - 1),
            uid_next=min(values.get(b"UIDNEXT", 0), 2**32 - 1),
        )

    def marks(self, folder: SourceFolder) -> Sequence[Mark]:
        def uids(client: Any) -> tuple[str, Any]:
            self._selected = ""  # anew: it may have grown
            self._select(client, folder.place)
            found = array("L")
            for start in range(1, self._exists + 1, LISTED):
                client.asks(0)
                last = min(start + LISTED - 1, self._exists)
                kind, answer = client.fetch(f"{start}:{last}", "(UID)")
                if kind != "OK":
                    return kind, answer
                found.extend(int(uid) for part in answer for uid in _UID.findall(_octets(part)))
            return "OK", found

        found = sorted(set(self._ask(uids)))
        source = f"imap {self._login.user}@{self._login.host}/{folder.uid_validity}"
        return _Marks(source, array("L", found))

    def messages(self, folder: SourceFolder, marks: Sequence[Mark]) -> Iterator[Message]:
        for start in range(0, len(marks), PAGE):
            page = marks[start : start + PAGE]
            facts = self._look(folder, [mark.uid for mark in page])
            group: list[Mark] = []
            octets = 0
            for mark in page:
                if mark.uid not in facts:
                    continue  # expunged meanwhile
                size = facts[mark.uid][2]
                if size > MAX_MESSAGE:
                    continue
                if group and octets + size > AT_ONCE:
                    yield from self._group(folder, group, facts)
                    group, octets = [], 0
                group.append(mark)
                octets += size
            if group:
                yield from self._group(folder, group, facts)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.logout()

    # -- questions -------------------------------------------------------------------------------------

    def _look(self, folder: SourceFolder, uids: Sequence[int]) -> dict[int, tuple[tuple[str, ...], int, int]]:
        """Flags, date and size of messages, by UID."""

        def ask(client: Any) -> tuple[str, Any]:
            self._select(client, folder.place)
            client.asks(0)
            answer: tuple[str, Any] = client.uid("FETCH", _set(uids), "(FLAGS INTERNALDATE RFC822.SIZE)")
            return answer

        facts = {}
        for part in self._ask(ask):
            line = _octets(part)
            uid, size = _UID.search(line), _SIZE.search(line)
            if uid is None or size is None:
                continue
            words = _FLAGS.search(line)
            flags = () if words is None else tuple(words.group(1).decode("ascii", "replace").split())
            facts[int(uid.group(1))] = (flags, _date(line), int(size.group(1)))
        return facts

    def _group(
        self, folder: SourceFolder, marks: Sequence[Mark], facts: dict[int, tuple[tuple[str, ...], int, int]]
    ) -> Iterator[Message]:
        if len(marks) == 1 and facts[marks[0].uid][2] > AT_ONCE:
            (mark,) = marks
            with tempfile.TemporaryFile(dir=self._spill) as file:
                self._in_parts(folder, mark.uid, facts[mark.uid][2], file)
                yield self._message(mark, facts, partial(_from_file, file))
            return
        bodies = self._bodies(folder, [mark.uid for mark in marks], sum(facts[m.uid][2] for m in marks))
        for mark in marks:
            data = bodies.pop(mark.uid, None)
            if data is not None:
                yield self._message(mark, facts, partial(_once, data))

    def _message(
        self,
        mark: Mark,
        facts: dict[int, tuple[tuple[str, ...], int, int]],
        octets: Callable[[], Iterator[bytes]],
    ) -> Message:
        flags, date, _ = facts[mark.uid]
        kept = tuple(flag for flag in flags if flag.lower() != "\\recent")
        return Message(mark, kept, date, mark.uid, mark.uid, True, octets)

    def _bodies(self, folder: SourceFolder, uids: Sequence[int], octets: int) -> dict[int, bytes]:
        def ask(client: Any) -> tuple[str, Any]:
            self._select(client, folder.place)
            client.asks(octets * 2)
            answer: tuple[str, Any] = client.uid("FETCH", _set(uids), "(BODY.PEEK[])")
            return answer

        return dict(_literals(self._ask(ask)))

    def _in_parts(self, folder: SourceFolder, uid: int, size: int, file: IO[bytes]) -> None:
        """A large message, into a file."""
        at = 0
        while True:

            def ask(client: Any, at: int = at) -> tuple[str, Any]:
                self._select(client, folder.place)
                client.asks(AT_ONCE)
                answer: tuple[str, Any] = client.uid("FETCH", str(uid), f"(BODY.PEEK[]<{at}.{AT_ONCE}>)")
                return answer

            part = dict(_literals(self._ask(ask))).get(uid, b"")
            file.write(part)
            at += len(part)
            if not part or (len(part) < AT_ONCE and at >= size):
                break
            if at > MAX_MESSAGE:
                raise SourceError(f"message {uid} of {folder.name} has no end")
        file.flush()

    def _namespace(self) -> tuple[str, str]:
        """The prefix of one's own folders, and what stands between levels."""
        try:
            kind, answer = self._connected().namespace()
        except imaplib.IMAP4.error:
            return "", ""
        match = _PERSONAL.match(_joined(answer)) if kind == "OK" else None
        if match is None:
            return "", ""
        prefix, delimiter = match.group(1), match.group(2) or b""
        return re.sub(rb"\\(.)", rb"\1", prefix).decode("ascii", "replace"), delimiter.decode("ascii")

    # -- the connection --------------------------------------------------------------------------------

    def _select(self, client: Any, place: str) -> None:
        if self._selected == place:
            return
        self._selected = ""
        client.asks(0)
        kind, answer = client.select(_quoted(place), readonly=True)
        if kind != "OK":
            raise SourceError(f"{place} cannot be opened: {_words(answer)}")
        self._exists = int(answer[0] or b"0")
        self._selected = place

    def _ask(self, question: Callable[[Any], tuple[str, Any]]) -> Any:
        """Ask; over a new connection where the old one is lost."""
        for attempt in range(ATTEMPTS):
            try:
                client = self._connected()
                client.asks(0)
                kind, answer = question(client)
            except _TooMuch as error:
                raise SourceError(str(error)) from None
            except (imaplib.IMAP4.abort, OSError) as error:
                self.close()
                if attempt == ATTEMPTS - 1:
                    raise SourceError(f"{self._login.host}: {error}") from None
                continue
            except (imaplib.IMAP4.error, UnicodeError) as error:
                raise SourceError(f"{self._login.host}: {error}") from None
            if kind != "OK":
                raise SourceError(f"{self._login.host}: {_words(answer)}")
            if isinstance(answer, array):
                return answer
            return [part for part in answer if part is not None]
        raise AssertionError("unreachable")

    def _connected(self) -> Any:
        if self._client is not None:
            return self._client
        login = self._login
        self._selected = ""
        try:
            if login.security == "tls":
                client = _Secure(login.host, login.port, ssl_context=self._context(), timeout=TIMEOUT)
            else:
                client = _Plain(login.host, login.port, timeout=TIMEOUT)
                if login.security == "starttls":
                    client.starttls(self._context())
                elif not is_loopback(client.sock):
                    raise SourceError(f"{login.host} is not this machine: a password needs TLS")
            try:
                client.login(login.user, login.password)
            except imaplib.IMAP4.abort:
                raise
            except imaplib.IMAP4.error as error:
                raise SourceError(f"{login.host} refuses {login.user}: {error}") from None
        except ssl.SSLError as error:
            raise SourceError(f"{login.host} cannot be trusted: {error}") from None
        except (OSError, imaplib.IMAP4.error) as error:
            raise SourceError(f"{login.host} cannot be reached: {error}") from None
        self._client = client
        return client

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._login.authority:
            try:
                context.load_verify_locations(self._login.authority)
            except OSError as error:
                raise SourceError(f"{self._login.authority}: {error}") from None
        return context


class _Dated(Sequence[SourceFolder]):
    """Folders, each with its UIDVALIDITY when it is come to."""

    def __init__(self, source: ImapSource, folders: Sequence[SourceFolder]) -> None:
        self._source = source
        self._folders = folders

    def __len__(self) -> int:
        return len(self._folders)

    def __getitem__(self, at: Any) -> Any:
        found = self._folders[at]
        return found if isinstance(at, slice) else self._source.with_uids(found)


class _Marks(Sequence[Mark]):
    """Marks of many messages in a few octets each."""

    def __init__(self, source: str, uids: array[int]) -> None:
        self._source = source
        self._uids = uids

    def __len__(self) -> int:
        return len(self._uids)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self._mark(uid) for uid in self._uids[at]]
        return self._mark(self._uids[at])

    def _mark(self, uid: int) -> Mark:
        return Mark(f"{self._source}/{uid}", "", uid)


_USES: Final = frozenset(("\\archive", "\\drafts", "\\junk", "\\sent", "\\trash"))


def is_loopback(connection: socket.socket) -> bool:
    """Whether the other end is this machine."""
    return ipaddress.ip_address(connection.getpeername()[0].partition("%")[0]).is_loopback


def _names(listed: Sequence[Any]) -> list[tuple[str, list[str], str]]:
    """(name as the server writes it, attributes, delimiter) of LIST answers."""
    found = []
    for item in listed:
        literal = None
        if isinstance(item, tuple):
            item, literal = item[0], item[1]
        match = _LISTED.match(item)
        if match is None:
            continue
        attributes = match.group(1).decode("ascii", "replace").split()
        delimiter = (match.group(2) or b"").decode("ascii", "replace")[-1:]
        raw = match.group(3) if literal is None else literal
        if literal is None and raw.startswith(b'"'):
            raw = re.sub(rb"\\(.)", rb"\1", raw[1:].rstrip().removesuffix(b'"'))
        found.append((raw.decode("utf-8", "replace"), attributes, delimiter))
    return found


def _literals(answer: Sequence[Any]) -> Iterator[tuple[int, bytes]]:
    """(UID, octets) of FETCH answers with one literal each; a UID may stand before it or behind."""
    for at, part in enumerate(answer):
        if not isinstance(part, tuple):
            continue
        head, data = part
        uid = _UID.search(head)
        if uid is None and at + 1 < len(answer) and isinstance(answer[at + 1], bytes):
            uid = _UID.search(answer[at + 1])
        if uid is not None:
            yield int(uid.group(1)), data


def _octets(part: Any) -> bytes:
    return b" ".join(part) if isinstance(part, tuple) else part


def _joined(answer: Any) -> bytes:
    return b" ".join(_octets(part) for part in answer if part is not None)


def _words(answer: Any) -> str:
    return _joined(answer).decode("utf-8", "replace")[:200]


def _date(line: bytes) -> int:
    """INTERNALDATE; 0 where it cannot be read."""
    match = _DATE.search(line)
    if match is None:
        return 0
    try:
        parsed = datetime.strptime(match.group(1).decode("ascii").strip(), "%d-%b-%Y %H:%M:%S %z")
    except ValueError:
        return 0
    return max(int(parsed.timestamp()), 0)


def _set(uids: Sequence[int]) -> str:
    """A sequence set, neighbours together."""
    parts = []
    start = last = uids[0]
    for uid in (*uids[1:], 0):
        if uid == last + 1:
            last = uid
            continue
        parts.append(str(start) if start == last else f"{start}:{last}")
        start = last = uid
    return ",".join(parts)


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _once(data: bytes) -> Iterator[bytes]:
    yield data


def _from_file(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(CHUNK):
        yield chunk
