"""The courier "pipe": a message into a command's standard input, one run a recipient.

The command line comes from an alias in a file of the operator's own, from a row of ``[deliver]``, or from a
user's ``.forward`` or ``.qmail``; it is parted into words once (:mod:`lorrainemail.ops.commandline`) and
never seen by a shell. It runs as the server's user under the limits of :mod:`~lorrainemail.delivery.launch`;
that of a user runs as he, by the helper (:mod:`~lorrainemail.delivery.helped`). Its time, memory and output
are bounded; what its end means is told in :mod:`~lorrainemail.delivery.sysexits`. The message lies in an
unnamed file that is the command's input, so that one that does not read holds up nobody. Called through
:mod:`~lorrainemail.delivery.agents`.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.delivery import launch
from lorrainemail.delivery.arrival import for_mailbox, header_of
from lorrainemail.delivery.environment import variables
from lorrainemail.delivery.sysexits import TOO_LONG, TOO_MUCH, reply_of
from lorrainemail.errors import Reply, TemporaryError
from lorrainemail.interfaces import (
    DeliveryRow,
    FileWrite,
    IAgent,
    IContent,
    IDelivery,
    IPaced,
    Pace,
    QueueItem,
    QueueRecipient,
)
from lorrainemail.message.received import delivered_to_field, return_path_field
from lorrainemail.ops.commandline import words_of
from lorrainemail.ops.committer import fill
from lorrainemail.ops.files import SYSTEM
from lorrainemail.tables.trust import is_trusted

#: Octets that a command may write, and of them those that are kept.
MAX_OUTPUT: Final = 64 * 1024
KEPT_OUTPUT: Final = 2048
#: Seconds between asking a command to end and ending it.
GRACE: Final = 5.0

STOPPING: Final = Reply(451, "4.3.2", "The server is stopping")

InThread = Callable[[Callable[[], Any]], Deferred[Any]]


@attrs.frozen(slots=True)
class Limits:
    """What a command may use: seconds, octets of memory; and how many run at once."""

    time: int = 300
    memory: int = 512 * 10**6
    at_once: int = 5


class RunAsUser(Protocol):
    """Runs a configured command as the user of an account; None where there is no helper."""

    def __call__(
        self, account: str, command: str, environment: Mapping[str, str], message: int, seconds: int
    ) -> Deferred[Reply]: ...


@implementer(IAgent, IPaced)
class PipeAgent:
    """The agent.

    :param reactor: processes and timers.
    :param in_thread: runs what blocks.
    :param spill: where messages lie for their commands, and where these begin.
    :param separators: between user and detail.
    """

    name = "pipe"

    def __init__(
        self,
        reactor: Any,
        in_thread: InThread,
        spill: str,
        limits: Limits | None = None,
        separators: str = "+",
        as_user: RunAsUser | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.separators = separators
        self.as_user = as_user
        self.spill = spill
        self.in_thread = in_thread
        self.reactor = reactor
        self._running: set[Command] = set()

    def pace(self, destination: str) -> Pace:
        return Pace(concurrency=self.limits.at_once)

    def destination(self, recipient: QueueRecipient, argument: str) -> str:
        return f"{recipient.user}:{argument}"

    def start(self, item: QueueItem, row: DeliveryRow | None) -> Deferred[IDelivery]:
        delivery: IDelivery = PipeDelivery(self, item)
        return succeed(delivery)

    def run(self, words: Sequence[str], environment: Mapping[str, str], message: int) -> Deferred[Reply]:
        """Run a command as the server's user, its input the descriptor ``message``."""
        command = Command(self.reactor, self.limits.time, self._running)
        limits = [str(self.limits.memory), str(self.limits.time)]
        arguments = [sys.executable, "-I", "-S", str(Path(launch.__file__)), *limits, *words]
        command.spawn(arguments, {**environment, "HOME": self.spill}, self.spill, message)
        return command.done

    def close(self) -> Deferred[None]:
        """End what still runs."""
        for command in list(self._running):
            command.end(TOO_LONG, signal.SIGKILL)
        return succeed(None)


class Command(ProcessProtocol):
    """One run of a command. ``done`` fires with its reply and never fails; cancelled, it ends the command."""

    def __init__(self, reactor: Any, seconds: float, running: set[Command]) -> None:
        self.done: Deferred[Reply] = Deferred(self._cancelled)
        self._reactor = reactor
        self._seconds = seconds
        self._running = running
        self._output = b""
        self._octets = 0
        self._verdict: Reply | None = None
        self._timer: IDelayedCall | None = None
        self._pid = 0

    def spawn(self, words: Sequence[str], environment: Mapping[str, str], place: str, message: int) -> None:
        self._running.add(self)
        # The child's input is the message's file itself; what it says comes back by pipes.
        self._reactor.spawnProcess(
            self, words[0], list(words), dict(environment), place, childFDs={0: message, 1: "r", 2: "r"}
        )

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self._pid = transport.pid
        self._timer = self._reactor.callLater(self._seconds, self.end, TOO_LONG)

    def outReceived(self, data: bytes) -> None:
        self._octets += len(data)
        self._output = (self._output + data)[-KEPT_OUTPUT:]
        if self._octets > MAX_OUTPUT and self._verdict is None:
            self.end(TOO_MUCH, signal.SIGKILL)

    errReceived = outReceived

    def end(self, verdict: Reply, how: int = signal.SIGTERM) -> None:
        """Ask it to end, and see to it."""
        self._verdict = self._verdict or verdict
        self._disarm()
        if how != signal.SIGKILL:
            self._timer = self._reactor.callLater(GRACE, self.end, verdict, signal.SIGKILL)
        self._signal(how)

    def _signal(self, number: int) -> None:
        """To all of its group; before it has one of its own, to it alone."""
        transport: Any = self.transport
        try:
            if self._pid and os.getpgid(self._pid) == self._pid:
                os.killpg(self._pid, number)
            elif transport.pid:
                transport.signalProcess(number)
        except (ProcessLookupError, PermissionError):
            pass  # it has ended meanwhile

    def processExited(self, reason: Failure) -> None:
        self._disarm()
        try:
            os.killpg(self._pid, signal.SIGKILL)  # what it left behind holds no pipe of ours any longer
        except (ProcessLookupError, PermissionError):
            pass

    def processEnded(self, reason: Failure) -> None:
        self._disarm()
        self._running.discard(self)
        value: Any = reason.value
        number = value.signal
        status = -number if number is not None else value.exitCode or 0
        if not self.done.called:
            self.done.callback(self._verdict or reply_of(status, self._output))

    def _disarm(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _cancelled(self, _: Deferred[Reply]) -> None:
        self.end(TOO_LONG, signal.SIGKILL)


@implementer(IDelivery)
class PipeDelivery:
    """One message for a command; each recipient is a run of its own."""

    def __init__(self, agent: PipeAgent, item: QueueItem) -> None:
        self._agent = agent
        self._item = item
        self._runs: list[tuple[QueueRecipient, str, tuple[str, ...]]] = []
        self._messages: list[int] = []
        self._stopping = False

    def recipient(self, recipient: QueueRecipient, argument: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._recipient(recipient, argument))

    async def _recipient(self, recipient: QueueRecipient, argument: str) -> None:
        if recipient.user:
            if self._agent.as_user is None:
                words = "no helper runs commands as users (commands.helper)"
                raise TemporaryError(Reply(451, "4.3.5", words))
            # What it is called is the helper's to know.
            self._runs.append((recipient, argument, ()))
            return
        try:
            argv = words_of(argument)
        except ValueError as error:
            raise TemporaryError(Reply(451, "4.3.5", str(error).partition(";")[0])) from None
        await self._agent.in_thread(lambda: _check_program(argv[0]))
        self._runs.append((recipient, argument, argv))

    def body(self, content: IContent) -> Deferred[None]:
        return Deferred.fromCoroutine(self._body(content))

    async def _body(self, content: IContent) -> None:
        for recipient, _, _ in self._runs:
            prefix = self._prefix(recipient)
            try:
                made = await self._agent.in_thread(partial(_message, self._agent.spill, prefix, content))
            except OSError as error:
                words = f"the message cannot be laid down for the command: {error.strerror}"
                raise TemporaryError(Reply(452, "4.3.1", words)) from error
            self._messages.append(made)

    def _prefix(self, recipient: QueueRecipient) -> bytes:
        """What stands above the message, as Postfix's local(8) has it: From_, Return-Path, Delivered-To."""
        sender, address = self._item.envelope.sender, recipient.recipient.address
        path = "MAILER-DAEMON" if sender is None or not str(sender).isascii() else str(sender)
        from_line = f"From {path} {time.asctime(time.gmtime(self._agent.reactor.seconds()))}\r\n"
        return from_line.encode("ascii") + return_path_field(sender) + delivered_to_field(address)

    def commit(self) -> Deferred[list[Reply]]:
        return Deferred.fromCoroutine(self._commit())

    async def _commit(self) -> list[Reply]:
        replies: list[Reply] = []
        try:
            for (recipient, argument, words), message in zip(self._runs, self._messages, strict=True):
                replies.append(await self._run(recipient, argument, words, message))
        finally:
            self._let_go()
        return replies

    async def _run(
        self, recipient: QueueRecipient, argument: str, words: tuple[str, ...], message: int
    ) -> Reply:
        agent, envelope = self._agent, self._item.envelope
        if self._stopping:
            return STOPPING
        environment = variables(envelope, recipient.recipient, agent.separators, envelope.id)
        try:
            if recipient.user:
                assert agent.as_user is not None
                return await agent.as_user(recipient.user, argument, environment, message, agent.limits.time)
            return await agent.run(words, environment, message)
        except CancelledError:
            # What ran before it is delivered and must be written down, so the others are told of this one.
            self._stopping = True
            return STOPPING
        except OSError as error:  # no process to be had
            return Reply(451, "4.3.0", f"The command could not be started: {error.strerror}")

    def abort(self) -> Deferred[None]:
        self._let_go()
        return succeed(None)

    def _let_go(self) -> None:
        messages, self._messages = self._messages, []
        for message in messages:
            os.close(message)


def _check_program(path: str) -> None:
    """A program that others could have written, or put there, is not run."""
    try:
        os.stat(path)
    except OSError as error:
        words = f"the command {path} cannot be run: {error.strerror}"
        raise TemporaryError(Reply(451, "4.3.5", words)) from None
    if not is_trusted(path, os.geteuid()):
        words = f"the command {path} can be written by others than root and the server, or replaced"
        raise TemporaryError(Reply(451, "4.3.5", words))
    if not os.access(path, os.X_OK) or os.path.isdir(path):
        raise TemporaryError(Reply(451, "4.3.5", f"the command {path} is no program"))


def _message(directory: str, prefix: bytes, content: IContent) -> int:
    """An unnamed file that holds the message with LF, to be read from its beginning."""
    body = for_mailbox(content, header_of(content))
    with tempfile.TemporaryFile(dir=directory) as file:
        fill(SYSTEM, file.fileno(), FileWrite("", "", (prefix, body), line_feed=True))
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        return os.dup(file.fileno())
