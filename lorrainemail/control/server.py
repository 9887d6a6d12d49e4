"""The control door: the operator's commands to the running server, over ``<state>/control.sock``.

``service`` hands in the commands by name, each a callable that takes the question's arguments by keyword and
answers something that JSON can hold, or a Deferred of it. A command says no by raising
:class:`~lorrainemail.control.words.Refused` (or a MailError or ConfigurationError of the house); anything
else that it raises is logged and told as an internal error.

The socket has mode 0600, and each peer's credentials are checked besides: root and our own user alone.
Bounded: connections, length of a question, questions one after the other, time of a command.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from lorrainemail.control.words import (
    MAX_QUESTION,
    MAX_SECONDS,
    Malformed,
    Refused,
    decode_question,
    encode_error,
    encode_result,
)
from lorrainemail.errors import ConfigurationError, MailError
from lorrainemail.net.peers import peer_uid

_log = Logger(namespace="lorrainemail.control")

#: Commands that are connected at the same time.
MAX_CONNECTIONS: Final = 32
#: Seconds without a question after which a connection is closed.
IDLE: Final = 60.0
#: Questions of one connection that may wait for the one before.
MAX_WAITING: Final = 100

Command = Callable[..., Any]


class ControlProtocol(LineOnlyReceiver):
    """One operator's command that asks."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_QUESTION
    transport: Any

    def __init__(self, factory: ControlFactory, clock: IReactorTime) -> None:
        self._factory = factory
        self._clock = clock
        self._idle: IDelayedCall | None = None
        self._waiting: list[bytes] = []
        self._busy: Deferred[Any] | None = None
        self._welcome = False

    def connectionMade(self) -> None:
        self._factory.connections.add(self)
        uid = peer_uid(self.transport)
        self._welcome = uid in self._factory.allowed
        if not self._welcome:
            _log.warn("A process of uid {uid} was refused at the control socket", uid=uid)
            self.transport.loseConnection()
            return
        self._wait_idle()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._end_idle()
        self._factory.connections.discard(self)
        self._waiting.clear()

    def lineReceived(self, line: bytes) -> None:
        if not self._welcome:
            return
        if len(self._waiting) >= MAX_WAITING:
            self.transport.loseConnection()
            return
        self._waiting.append(line)
        self._next()

    def lineLengthExceeded(self, line: bytes) -> None:
        self.transport.write(encode_error("the question is too long"))
        self.transport.loseConnection()

    def _wait_idle(self) -> None:
        self._end_idle()
        self._idle = self._clock.callLater(IDLE, self.transport.loseConnection)

    def _end_idle(self) -> None:
        if self._idle is not None and self._idle.active():
            self._idle.cancel()
        self._idle = None

    def _next(self) -> None:
        if self._busy is not None or not self._waiting or not self.connected:
            return
        self._end_idle()
        done = self._busy = maybeDeferred(self._ask, self._waiting.pop(0))
        done.addTimeout(MAX_SECONDS, self._clock)
        done.addCallback(encode_result).addErrback(_words).addCallback(self._answer)

    def _ask(self, line: bytes) -> Any:
        question = decode_question(line)
        command = self._factory.commands.get(question.command)
        if command is None:
            raise Refused(f'the server knows no command "{question.command}"')
        return command(**question.arguments)

    def _answer(self, line: bytes) -> None:
        self._busy = None
        if self.connected:
            self.transport.write(line)
            self._wait_idle()
            self._next()


def _words(failure: Failure) -> bytes:
    """What the operator is told of a failure."""
    error = failure.value
    if isinstance(error, Refused | Malformed | ConfigurationError):
        return encode_error(str(error))
    if isinstance(error, MailError):
        return encode_error(error.detail or error.reply.text)
    if isinstance(error, TimeoutError):
        return encode_error("the command took too long; it may still be at work")
    _log.failure("A command failed", failure=failure)
    return encode_error("internal error; the server's log says more")


class ControlFactory(Factory):
    """Makes one protocol a connection.

    :param commands: callables by name; may be added to while running.
    """

    noisy = False

    def __init__(self, commands: Mapping[str, Command], clock: IReactorTime) -> None:
        self.commands = commands
        self.allowed = frozenset((0, os.geteuid()))
        self.connections: set[ControlProtocol] = set()
        self._clock = clock

    def doStart(self) -> None:
        # Only now have we become the user that serves.
        self.allowed = frozenset((0, os.geteuid()))
        super().doStart()  # type: ignore[no-untyped-call]

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if len(self.connections) >= MAX_CONNECTIONS:
            return None
        return ControlProtocol(self, self._clock)
