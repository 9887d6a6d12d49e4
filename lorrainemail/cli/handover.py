"""A message on its way from a program of this machine into the running server.

Owns the two halves of :mod:`lorrainemail.cli.sendmail`: :class:`Draft` makes a complete message of what a
program wrote (line ends, missing fields, recipients of its header), :class:`Link` speaks plain SMTP over the
server's UNIX socket. Blocks; imports little, because it runs once a message. Fails with
:class:`HandoverError`, which carries the exit status of sysexits(3).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from tempfile import SpooledTemporaryFile
from typing import IO, Final

from lorrainemail.message.addresslist import parse_addresses

#: The socket in the state directory.
SOCKET_NAME: Final = "submit.sock"
#: Octets of a message kept in memory; a larger one goes to a temporary file.
IN_MEMORY: Final = 2**20
#: Octets of a header; a message with a larger one is refused.
MAX_HEADER: Final = 256 * 1024
#: Octets of one reply line (RFC 5321 §4.5.3.1.5 asks for 512).
MAX_REPLY: Final = 8192
CHUNK: Final = 64 * 1024
#: Seconds for an answer of the server; it answers the final dot within a minute.
PATIENCE: Final = 120.0

# sysexits(3)
USAGE: Final = 64
DATA_ERROR: Final = 65
NO_USER: Final = 67
UNAVAILABLE: Final = 69
SOFTWARE: Final = 70
OS_ERROR: Final = 71
TRY_AGAIN: Final = 75
NO_PERMISSION: Final = 77
CONFIGURATION: Final = 78

_RECIPIENT_FIELDS: Final = (b"to", b"cc", b"bcc")
_RESENT_FIELDS: Final = (b"resent-to", b"resent-cc", b"resent-bcc")
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class HandoverError(Exception):
    """It was not done; ``status`` is the exit status, the text says why."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Draft:
    """One message, with CRLF line ends, dot-stuffed, its header apart.

    :param source: what the program wrote.
    :param dot_ends: a line of a single dot ends it (no ``-i``).
    """

    def __init__(self, source: IO[bytes], dot_ends: bool) -> None:
        #: The fields as they came, each with its continuation lines and CRLF.
        self.fields: list[bytes] = []
        self.eight_bit = False
        self.size = 0
        self._body: IO[bytes] = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (closed with the process)
        self._at_start = True
        lines = _lines(source, dot_ends)
        for line in self._read_header(lines):
            self._add_to_body(line)
        for line in lines:
            self._add_to_body(line)
        if not self._at_start:
            self._add_to_body(b"\r\n")

    def _read_header(self, lines: Iterator[bytes]) -> list[bytes]:
        """Take the header's lines; the lines that turned out to belong to the body."""
        octets, first = 0, True
        for line in lines:
            if first and line.startswith(b"From "):
                # The envelope line of an mbox file is no part of the message.
                first = False
                continue
            first = False
            octets += len(line)
            if octets > MAX_HEADER:
                raise HandoverError(DATA_ERROR, "the header of the message is too large")
            if line == b"\r\n":
                return [line]
            if line[:1] in b" \t" and self.fields:
                self.fields[-1] += line
            elif _is_field(line):
                self.fields.append(line)
            else:
                # No empty line, and yet no field: the body began.
                return [b"\r\n", line]
        return []

    def _add_to_body(self, line: bytes) -> None:
        self.eight_bit = self.eight_bit or not line.isascii()
        self.size += len(line)
        # A very long line comes in pieces; only its first one can need a dot.
        self._body.write(b"." + line if self._at_start and line.startswith(b".") else line)
        self._at_start = line.endswith(b"\r\n")

    def recipients(self) -> list[str]:
        """The addresses of the header (``-t``): of the Resent fields where there are any."""
        present = {_name(field) for field in self.fields}
        wanted = _RESENT_FIELDS if present.intersection(_RESENT_FIELDS) else _RECIPIENT_FIELDS
        found: list[str] = []
        for field in self.fields:
            if _name(field) in wanted:
                found += _addresses(field.partition(b":")[2])
        return list(dict.fromkeys(found))

    def complete(self, sender: str, full_name: str, hostname: str) -> None:
        """Take Bcc out; add From, Date and Message-ID where they are missing (RFC 6409 §8)."""
        hidden = (b"bcc", b"resent-bcc")
        self.fields = [field for field in self.fields if _name(field) not in hidden]
        present = {_name(field) for field in self.fields}
        now = time.time()
        if b"from" not in present:
            author = f"{_phrase(full_name)} <{sender}>" if full_name else sender
            self._prepend(f"From: {author}")
        if b"message-id" not in present:
            self._prepend(f"Message-ID: <{int(now * 1000):x}.{os.urandom(6).hex()}@{hostname}>")
        if b"date" not in present:
            self._prepend(f"Date: {_date(now)}")
        header = b"".join(self.fields)
        self.eight_bit = self.eight_bit or not header.isascii()
        self.size += len(header)

    def _prepend(self, field: str) -> None:
        self.fields.insert(0, field.encode("utf-8") + b"\r\n")

    @property
    def header_is_ascii(self) -> bool:
        return all(field.isascii() for field in self.fields)

    def chunks(self) -> Iterator[bytes]:
        """The message as DATA takes it, with its final dot."""
        yield b"".join(self.fields)
        self._body.seek(0)
        while chunk := self._body.read(CHUNK):
            yield chunk
        yield b".\r\n"


class Link:
    """An SMTP session over the server's UNIX socket."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PATIENCE)
        connect(self._socket, path)
        self._replies = self._socket.makefile("rb")
        greeting = self._reply()
        if not greeting.startswith("220"):
            raise _refused(greeting)
        #: The server's name, as it greets.
        self.hostname = greeting[4:].split(" ", 1)[0] or "localhost"
        #: Keywords of EHLO.
        self.extensions: frozenset[str] = frozenset()

    def greet(self) -> None:
        """EHLO; the socket's peer has no name but this machine's."""
        lines = self.ask("EHLO localhost").split("\n")
        self.extensions = frozenset(line[4:].split(" ", 1)[0].upper() for line in lines[1:])

    def send(self, draft: Draft, sender: str, recipients: Sequence[str]) -> str:
        """One transaction: to all recipients or to none; the server's words.

        :raises HandoverError: and nothing was sent.
        """
        parameters = ""
        if "SIZE" in self.extensions:
            parameters += f" SIZE={draft.size}"
        if draft.eight_bit and "8BITMIME" in self.extensions:
            parameters += " BODY=8BITMIME"
        if not (draft.header_is_ascii and sender.isascii() and all(r.isascii() for r in recipients)):
            parameters += " SMTPUTF8" if "SMTPUTF8" in self.extensions else ""
        self.ask(f"MAIL FROM:<{sender}>{parameters}")
        for recipient in recipients:
            self.ask(f"RCPT TO:<{recipient}>", recipient)
        self.ask("DATA")
        for chunk in draft.chunks():
            self._write(chunk)
        return self.ask("")

    def ask(self, command: str, about: str = "") -> str:
        """Send a command ("" for none) and wait for its reply."""
        if "\r" in command or "\n" in command or "\0" in command:
            raise HandoverError(DATA_ERROR, "an address has a control character")
        if command:
            self._write(command.encode("utf-8", "surrogateescape") + b"\r\n")
        reply = self._reply()
        if reply[:1] not in "23":
            raise _refused(reply, about)
        return reply

    def close(self) -> None:
        """QUIT, whatever comes of it."""
        try:
            self._socket.sendall(b"QUIT\r\n")
            self._reply()
        except (OSError, HandoverError):
            pass
        self._socket.close()

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise HandoverError(TRY_AGAIN, "the mail server does not read") from None
        except OSError:
            # It said why before it went, perhaps.
            raise _refused(self._reply()) from None

    def _reply(self) -> str:
        """One reply, its lines separated by newlines."""
        lines: list[str] = []
        while True:
            try:
                line = self._replies.readline(MAX_REPLY)
            except TimeoutError:
                raise HandoverError(TRY_AGAIN, "the mail server does not answer") from None
            except OSError:
                line = b""
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if not line.endswith(b"\n") or not text[:3].isdigit() or len(lines) > 100:
                raise HandoverError(TRY_AGAIN, "the mail server ended the connection")
            lines.append(text)
            if text[3:4] != "-":
                return "\n".join(lines)


def connect(connection: socket.socket, path: str) -> None:
    """Reach the server that listens at a socket."""
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        where = os.path.dirname(path)
        words = f"no mail server runs on {where}: the message was not sent, try again when it does"
        raise HandoverError(TRY_AGAIN, words) from None
    except PermissionError:
        raise HandoverError(NO_PERMISSION, f"this user may not use the mail server's {path}") from None
    except OSError as error:
        raise HandoverError(TRY_AGAIN, f"the mail server cannot be reached: {error.strerror}") from None


def _refused(reply: str, about: str = "") -> HandoverError:
    """What a refusal means for the calling program."""
    code, enhanced = reply[:3], reply[4:].split(" ", 1)[0]
    if code.startswith("4"):
        status = TRY_AGAIN
    elif enhanced.startswith("5.1"):
        status = NO_USER
    elif enhanced.startswith("5.7"):
        status = NO_PERMISSION
    elif enhanced.startswith(("5.6", "5.3.4", "5.2.3", "5.5")):
        status = DATA_ERROR
    else:
        status = UNAVAILABLE
    whom = f"{about}: " if about else ""
    return HandoverError(status, f"{whom}the mail server says: {reply.replace(chr(10), ' / ')}")


def _lines(source: IO[bytes], dot_ends: bool) -> Iterator[bytes]:
    """Lines with CRLF at their end; a very long one in pieces."""
    whole = True
    while line := source.readline(CHUNK):
        if line.endswith(b"\r"):
            line += source.read(1)
        if line.endswith(b"\n") and not line.endswith(b"\r\n"):
            line = line[:-1] + b"\r\n"
        if dot_ends and whole and line in (b".\r\n", b"."):
            return
        whole = line.endswith(b"\r\n")
        yield line


def _is_field(line: bytes) -> bool:
    """RFC 5322 §2.2: a name of printable characters, perhaps blanks (§4.5), a colon."""
    name, colon, _ = line.partition(b":")
    name = name.rstrip(b" \t")
    return bool(colon and name) and all(32 < octet < 127 for octet in name)


def _name(field: bytes) -> bytes:
    return field.partition(b":")[0].rstrip(b" \t").lower()


def _addresses(value: bytes) -> Iterator[str]:
    """The addresses of a field, those without a domain too."""
    for mailbox in parse_addresses(value.replace(b"\r\n", b"")):
        if mailbox.host is None:
            continue  # a group's name or its end
        if mailbox.mailbox:
            local = mailbox.mailbox.decode("utf-8", "surrogateescape")
            host = mailbox.host.decode("utf-8", "surrogateescape")
            yield quoted(local) + (f"@{host}" if host else "")


def quoted(local: str) -> str:
    """A local part as SMTP writes it (RFC 5321 §4.1.2)."""
    plain = local.replace(".", "")
    specials = set(' "(),:;<>@[\\]')
    if plain and not specials.intersection(plain) and ".." not in f".{local}.":
        return local
    return '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _phrase(name: str) -> str:
    """A display name (RFC 5322 §3.4): quoted where it is not plain ASCII words; RFC 2047 where not ASCII."""
    name = " ".join(name.split())
    if not name.isascii():
        from email.header import Header

        return Header(name, "utf-8").encode(linesep="\r\n")
    if all(character.isalnum() or character in " !#$%&'*+-/=?^_`{|}~" for character in name):
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _date(now: float) -> str:
    """RFC 5322 §3.3, in the machine's own zone, in English whatever the locale."""
    local = time.localtime(now)
    minutes = local.tm_gmtoff // 60
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}{abs(minutes) % 60:02d}"
    return (
        f"{_DAYS[local.tm_wday]}, {local.tm_mday} {_MONTHS[local.tm_mon - 1]} {local.tm_year}"
        f" {local.tm_hour:02d}:{local.tm_min:02d}:{local.tm_sec:02d} {zone}"
    )
