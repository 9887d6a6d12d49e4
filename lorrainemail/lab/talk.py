"""A client's side of a conversation, line by line, as the lab shows it: SMTP, POP3 or IMAP.

:class:`Talk` connects, says lines, hears replies, starts TLS; everything that passes is also told to a
listener. It knows where a reply ends in each of the three protocols and nothing else. Every wait is bounded.
Fails with :class:`TalkFailed`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Literal

from twisted.internet import protocol
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.python.failure import Failure

#: Seconds for any one answer.
PATIENCE: Final = 10.0
#: An answer longer than this is none that the lab asks for.
MAX_ANSWER: Final = 1 << 20

Kind = Literal["smtp", "pop3", "imap"]
#: Told ("C" or "S", one line without its end).
Listener = Callable[[str, str], None]


class TalkFailed(Exception):
    """The other side did not say what it should; the text shows what it said."""


class _Line(protocol.Protocol):
    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.lost: Failure | None = None
        self.waiting: Deferred[None] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._wake()

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        self.lost = reason
        self._wake()

    def _wake(self) -> None:
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.callback(None)


class Talk:
    """One conversation. Made by :func:`connect`."""

    def __init__(self, line: _Line, kind: Kind, clock: Any, listener: Listener) -> None:
        self._line = line
        self._kind = kind
        self._clock = clock
        self._listener = listener
        self._tag = 0

    def say(self, text: str, shown: str | None = None) -> None:
        """Say one line.

        :param shown: what the listener is told instead, where a secret is in it.
        """
        self._listener("C", text if shown is None else shown)
        self._line.transport.write(text.encode("utf-8") + b"\r\n")

    async def hear(self, wanted: str, multiline: bool = False) -> str:
        """The next whole answer.

        :param wanted: how its last line (POP3: its first) must begin.
        :param multiline: POP3: it ends with a lone dot.
        """
        answer = await self._answer(multiline)
        for line in answer.split("\r\n"):
            self._listener("S", line)
        lines = answer.split("\r\n")
        decisive = lines[0] if self._kind == "pop3" else lines[-1]
        if not decisive.startswith(wanted):
            raise TalkFailed(decisive)
        return answer

    async def command(self, text: str, wanted: str, shown: str | None = None, multiline: bool = False) -> str:
        """Say a line and hear its answer."""
        self.say(text, shown)
        return await self.hear(wanted, multiline)

    async def tagged(self, text: str, shown: str | None = None) -> str:
        """IMAP: a command and its answer, which must be OK."""
        self._tag += 1
        tag = f"a{self._tag}"
        return await self.command(f"{tag} {text}", f"{tag} OK", None if shown is None else f"{tag} {shown}")

    def start_tls(self, creator: Any) -> None:
        """Everything from now on is encrypted."""
        self._line.transport.startTLS(creator)

    def close(self) -> None:
        self._line.transport.loseConnection()

    async def _answer(self, multiline: bool) -> str:
        while True:
            end = self._end(multiline)
            if end:
                answer, self._line.received = self._line.received[:end], self._line.received[end:]
                return answer.decode("utf-8", "replace").removesuffix("\r\n")
            if self._line.lost is not None:
                raise TalkFailed(f"the connection ended: {self._line.lost.getErrorMessage()}")
            if len(self._line.received) > MAX_ANSWER:
                raise TalkFailed("an answer without end")
            self._line.waiting = Deferred()
            try:
                await self._line.waiting.addTimeout(PATIENCE, self._clock)
            except TimeoutError:
                raise TalkFailed("no answer") from None

    def _end(self, multiline: bool) -> int:
        """Where the answer ends that begins the input; 0 where it is not there yet."""
        received = self._line.received
        if self._kind == "smtp":  # RFC 5321 §4.2.1
            match = re.search(rb"^\d{3}(?: [^\n]*)?\n", received, re.M)
        elif self._kind == "imap":  # RFC 3501 §2.2.2; the greeting has no tag
            tag = f"a{self._tag}".encode() if self._tag else rb"\*"
            match = re.search(rb"^" + tag + rb" [^\n]*\n", received, re.M)
        elif multiline and not received.startswith(b"-"):  # RFC 1939 §3
            match = re.search(rb"\r\n\.\r\n", received)
        else:
            match = re.search(rb"\n", received)
        return match.end() if match else 0


async def connect(
    reactor: Any, kind: Kind, host: str, port: int, listener: Listener, creator: Any = None
) -> Talk:
    """Connect; with ``creator``, under TLS from the first octet."""
    point: Any = TCP4ClientEndpoint(reactor, host, port, timeout=PATIENCE)
    if creator is not None:
        point = wrapClientTLS(creator, point)
    try:
        line = await point.connect(protocol.Factory.forProtocol(_Line))
    except Exception as error:
        raise TalkFailed(f"cannot connect to {host}:{port}: {error}") from None
    return Talk(line, kind, reactor, listener)
