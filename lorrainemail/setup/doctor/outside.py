"""Short conversations with servers, ours and others': a port, a greeting, a certificate, a refusal, the time.

Blocking, for a thread: sockets with a deadline for each whole conversation, so that a server that drips one
octet at a time ends as one that says nothing. Called by the checks of doors, certificates and time, and by
``init`` (is port 25 open?). Fails with OSError (also for an answer that is none); never takes longer than
its seconds.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from typing import Final

import attrs

#: Seconds for one whole conversation.
PATIENCE: Final = 8.0
#: Octets of one reply (RFC 5321 §4.5.3.1.5 has 512 a line).
MAX_REPLY: Final = 16_384
#: Seconds from NTP's epoch, 1900, to ours (RFC 5905 §6).
_NTP_EPOCH: Final = 2_208_988_800
#: What speaks TLS at once.
_AT_ONCE: Final = frozenset({"submissions", "imaps", "pop3s", "https"})


class Conversation:
    """A connection with a deadline, that reads lines."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._socket = connection
        self._deadline = deadline
        self._buffer = b""

    def line(self) -> str:
        """The next line without its end."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_REPLY:
                raise OSError("a line without end")
            self._wait()
            octets = self._socket.recv(4096)
            if not octets:
                raise OSError("the connection was closed")
            self._buffer += octets
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r").decode("ascii", "replace")

    def reply(self) -> tuple[int, str]:
        """A whole SMTP reply: its code and its last line's text."""
        for _ in range(100):
            line = self.line()
            if not line[:3].isdigit():
                raise OSError(f"no SMTP: {line[:60]}")
            if line[3:4] != "-":
                return int(line[:3]), line[4:]
        raise OSError("a reply without end")

    def command(self, text: str) -> tuple[int, str]:
        """Say an SMTP command; its reply."""
        self._wait()
        self._socket.sendall(text.encode("ascii") + b"\r\n")
        return self.reply()

    def say(self, text: str) -> None:
        """Say it as it stands."""
        self._wait()
        self._socket.sendall(text.encode("ascii"))

    def rest(self) -> bytes:
        """All that still comes, as far as one reply may go."""
        while len(self._buffer) <= MAX_REPLY:
            self._wait()
            octets = self._socket.recv(4096)
            if not octets:
                break
            self._buffer += octets
        return self._buffer[:MAX_REPLY]

    def start_tls(self, hostname: str) -> bytes:
        """Encrypt; the certificate of the other side (DER), which is not verified here."""
        self._wait()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        wrapped = context.wrap_socket(self._socket, server_hostname=hostname)
        self._socket = wrapped
        return wrapped.getpeercert(binary_form=True) or b""

    def close(self) -> None:
        self._socket.close()

    def _wait(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        self._socket.settimeout(left)


@contextlib.contextmanager
def talk(address: str, port: int, seconds: float = PATIENCE) -> Iterator[Conversation]:
    """Connect.

    :raises OSError: where nothing answers.
    """
    deadline = time.monotonic() + seconds
    conversation = Conversation(socket.create_connection((address, port), seconds), deadline)
    try:
        yield conversation
    finally:
        conversation.close()


@attrs.frozen(slots=True)
class Greeting:
    """What a server says first: its reply's code and the name in it."""

    code: int
    name: str


def smtp_greeting(address: str, port: int, seconds: float = PATIENCE) -> Greeting:
    """Connect, read the greeting, leave."""
    with talk(address, port, seconds) as conversation:
        code, text = conversation.reply()
        with contextlib.suppress(OSError):  # it has said what was wanted
            conversation.command("QUIT")
    return Greeting(code, text.partition(" ")[0].lower())


def opens(address: str, port: int, seconds: float = PATIENCE) -> None:
    """Connect and leave."""
    with talk(address, port, seconds):
        pass


def shown_certificate(door: str, address: str, port: int, hostname: str, helo: str) -> bytes:
    """The certificate (DER) that a door of ours shows to who asks for that name."""
    with talk(address, port) as conversation:
        if door in _AT_ONCE:
            return conversation.start_tls(hostname)
        conversation.reply()
        conversation.command(f"EHLO {helo}")
        code, text = conversation.command("STARTTLS")
        if code != 220:
            raise OSError(f"STARTTLS: {code} {text}")
        return conversation.start_tls(hostname)


@attrs.frozen(slots=True)
class Page:
    """What a web door shows: its certificate (DER), the status of a page, and the page."""

    certificate: bytes
    status: int
    body: bytes


def page(address: str, port: int, host: str, path: str, seconds: float = PATIENCE) -> Page:
    """Fetch a small page by HTTPS (RFC 9112), from that address under that name."""
    with talk(address, port, seconds) as conversation:
        certificate = conversation.start_tls(host)
        conversation.say(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        words = conversation.line().split()
        if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
            raise OSError("no HTTP")
        while conversation.line():
            pass  # header fields
        return Page(certificate, int(words[1]), conversation.rest())


def relays(address: str, port: int, helo: str, recipient: str) -> tuple[bool, str]:
    """Whether the server takes mail from nobody for a stranger elsewhere; nothing is sent.

    :returns: whether, and its words.
    """
    with talk(address, port) as conversation:
        code, text = conversation.reply()
        if code == 220:
            code, text = conversation.command(f"EHLO {helo}")
        if code == 250:
            code, text = conversation.command("MAIL FROM:<>")
        if code == 250:
            code, text = conversation.command(f"RCPT TO:<{recipient}>")
            taken = code in (250, 251)
        else:
            taken = False
        with contextlib.suppress(OSError):
            conversation.command("RSET")
            conversation.command("QUIT")
    return taken, f"{code} {text}"


def clock_offset(host: str, port: int, seconds: float = PATIENCE) -> float:
    """Seconds by which our clock is ahead of that of a time server (RFC 4330 §5).

    :raises OSError: where it does not answer, or says that it does not know the time.
    """
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as connection:
        connection.settimeout(seconds)
        connection.connect(where)
        sent = time.time()
        whole, part = divmod(sent + _NTP_EPOCH, 1)
        stamp = struct.pack("!II", int(whole) & 0xFFFFFFFF, int(part * 2**32))
        connection.send(b"\x23" + bytes(39) + stamp)
        answer = connection.recv(512)
        received = time.time()
    if len(answer) < 48 or answer[0] & 7 != 4 or answer[24:32] != stamp:
        raise OSError("no answer of a time server")
    if answer[0] >> 6 == 3 or answer[1] == 0:
        raise OSError("the time server does not know the time itself")
    whole_there, part_there = struct.unpack("!II", answer[40:48])
    there = whole_there + part_there / 2**32 - _NTP_EPOCH
    if there < 0:  # the era that begins in 2036
        there += 2**32
    return float((sent + received) / 2 - there)
