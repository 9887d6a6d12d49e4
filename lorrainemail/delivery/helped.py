"""The client of ``lorrainemail-helper``: a configured command, run as the user whose mail it is.

One connection to the helper's UNIX socket a run: one JSON line that names account, command and environment,
with the message's descriptor beside it, and one JSON line back with exit status and output. The helper
(:mod:`lorrainemail.cli.helper`) decides by its own configuration whether that account and that command exist.
What goes wrong on the way is temporary. Called by :mod:`~lorrainemail.delivery.pipe`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from lorrainemail.delivery.sysexits import reply_of
from lorrainemail.errors import Reply

#: Octets of the helper's answer.
MAX_ANSWER: Final = 64 * 1024
#: Seconds to connect, and those that the helper has beyond the command's own.
CONNECT_TIME: Final = 10
MORE_TIME: Final = 30
#: What the helper answers where account or command are not in its configuration.
NOT_CONFIGURED: Final = "not configured"


class _Asking(Protocol):
    """One request."""

    def __init__(self, line: bytes, message: int) -> None:
        self.done: Deferred[bytes] = Deferred(self._cancelled)
        self._line = line
        self._message = message
        self._answer = b""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.sendFileDescriptor(self._message)
        transport.write(self._line)

    def dataReceived(self, data: bytes) -> None:
        self._answer += data
        if len(self._answer) > MAX_ANSWER and self.transport is not None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.done.called:
            self.done.callback(self._answer[:MAX_ANSWER])

    def _cancelled(self, _: Deferred[bytes]) -> None:
        transport: Any = self.transport
        transport.abortConnection()


class Helper:
    """The helper at one socket."""

    def __init__(self, reactor: Any, path: str) -> None:
        self._reactor = reactor
        self._path = path

    def __call__(
        self, account: str, command: str, environment: Mapping[str, str], message: int, seconds: int
    ) -> Deferred[Reply]:
        """Run a command. Never fails but by being cancelled.

        :param message: descriptor of a file at its beginning; it stays the caller's.
        """
        return Deferred.fromCoroutine(self._run(account, command, environment, message, seconds))

    async def _run(
        self, account: str, command: str, environment: Mapping[str, str], message: int, seconds: int
    ) -> Reply:
        request = {"version": 1, "account": account, "command": command, "environment": dict(environment)}
        asking = _Asking(json.dumps(request).encode("ascii") + b"\n", message)
        endpoint: Any = UNIXClientEndpoint(self._reactor, self._path, CONNECT_TIME)  # type: ignore[no-untyped-call]
        try:
            await endpoint.connect(Factory.forProtocol(lambda: asking))
        except CancelledError:
            raise
        except Exception as error:  # every way in which a connect fails
            return Reply(451, "4.3.5", f"The helper at {self._path} cannot be reached: {error}"[:300])
        timer: IDelayedCall = self._reactor.callLater(seconds + MORE_TIME, asking.done.cancel)
        try:
            answer = await asking.done
        except CancelledError:
            if timer.active():
                raise
            return Reply(451, "4.3.0", "The helper did not answer in time")
        finally:
            if timer.active():
                timer.cancel()
        return _understood(answer)


def _understood(answer: bytes) -> Reply:
    try:
        said = json.loads(answer)
        error = said.get("error", "")
        if error == NOT_CONFIGURED:
            return Reply(451, "4.3.5", "The helper's configuration does not have this account or command")
        if error:
            return Reply(451, "4.3.0", "The helper could not run the command")
        return reply_of(int(said["status"]), str(said.get("output", "")).encode("utf-8", "replace"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Reply(451, "4.3.0", "The helper's answer was not understood")
