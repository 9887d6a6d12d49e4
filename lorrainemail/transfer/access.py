"""How a command reaches the mailboxes: through the running server, or with its own store where none runs.

Both answer the same calls (:func:`lorrainemail.transfer.serving.commands` and its like), blocking, from a
thread that is not the reactor's. Without a server the state's lock is held for as long as the work lasts, so
that none starts beside it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import blockingCallFromThread

from lorrainemail.addresses import AddressError, parse_address
from lorrainemail.config.load import Located, load
from lorrainemail.control.client import call
from lorrainemail.control.words import Refused
from lorrainemail.errors import ConfigurationError, MailError, Problem
from lorrainemail.interfaces import Account, later
from lorrainemail.setup.failure import StartError
from lorrainemail.setup.lock import Locked, StateLock, holder
from lorrainemail.setup.places import directories
from lorrainemail.setup.state_version import require_known
from lorrainemail.tables.edit import as_owner

T = TypeVar("T")


class Access(Protocol):
    """Calls by name, as over the control socket."""

    def __call__(self, command: str, **arguments: Any) -> Any:
        """The result.

        :raises Refused: with words for the operator.
        """


def is_served(state: str) -> bool:
    """Whether a server, or another command that works in its stead, has the state."""
    return holder(state) is not None


def through_server(state: str) -> Access:
    """Through the running server."""

    def ask(command: str, **arguments: Any) -> Any:
        return call(state, command, **arguments)

    return ask


class _Interrupted(KeyboardInterrupt):
    """The reactor ends."""


def with_access(located: Located, work: Callable[[Access], T]) -> T:
    """Do the work with whichever access there is. Once in a process.

    :raises ConfigurationError: where neither is possible.
    """
    if is_served(located.state):
        return work(through_server(located.state))
    with locked(located), as_owner(located.state):
        return _with_own_store(located, work)


@contextlib.contextmanager
def locked(located: Located) -> Iterator[None]:
    """While no server runs on the state, and none can start.

    :raises ConfigurationError: where one does, or where a newer version wrote the state.
    """
    state = located.state
    with as_owner(state):
        try:
            lock = StateLock.acquire(state)
        except Locked as error:
            what = f"process {error.pid} has just taken the state directory"
            raise ConfigurationError((Problem(state, 0, what, "try again"),)) from None
        except OSError as error:
            what = f"it cannot be used: {error.strerror}"
            raise ConfigurationError((Problem(state, 0, what, "check --state"),)) from None
    try:
        require_known(state)
        yield
    except StartError as error:
        raise ConfigurationError((Problem(state, 0, error.what, error.mend),)) from None
    finally:
        lock.release()


def _with_own_store(located: Located, work: Callable[[Access], T]) -> T:
    from lorrainemail.cli.looping import run_in_reactor

    settings = load(located)
    ended = threading.Event()

    async def run(reactor: Any, in_thread: Any) -> T:
        import lorrainemail.plugins
        from lorrainemail.ops.committer import Committer
        from lorrainemail.store.mailstore import MailStore
        from lorrainemail.tables.backend import find_backend
        from lorrainemail.tables.rules import Rules
        from lorrainemail.tables.service import TableService
        from lorrainemail.transfer.serving import commands

        places = directories(located.state)
        for path in (places.mail, places.spill):
            os.makedirs(path, mode=0o700, exist_ok=True)
        committer = Committer(reactor, located.state, reserve=settings.limits.disk_reserve)
        backend = find_backend(settings.tables, lorrainemail.plugins, settings.origin("tables"))
        tables = TableService(backend.open(located.state), Rules.of(settings), reactor, in_thread)
        store = MailStore(reactor, places.mail, committer, settings.hostname)
        known = commands(store, partial(find_account, tables), places.spill)
        done: Deferred[None] = Deferred()
        reactor.addSystemEventTrigger("before", "shutdown", ended.set)
        reactor.addSystemEventTrigger("before", "shutdown", lambda: done)
        committer.startService()
        store.startService()
        try:
            answer: T = await in_thread(lambda: work(_in_process(reactor, known, ended)))
        finally:
            await store.stopService()
            await maybeDeferred(committer.stopService)
            done.callback(None)
        return answer

    return run_in_reactor(run)


async def find_account(tables: Any, address: str) -> Account | None:
    """The account of an address as its owner writes it."""
    try:
        parsed = parse_address(address)
    except AddressError:
        return None
    found: Account | None = await later(tables.current().account(parsed))
    return found


def _in_process(reactor: Any, known: Mapping[str, Callable[..., Any]], ended: threading.Event) -> Access:
    """The calls, carried out in the reactor thread."""

    def ask(command: str, **arguments: Any) -> Any:
        if ended.is_set():
            raise _Interrupted
        try:
            return blockingCallFromThread(reactor, lambda: maybeDeferred(known[command], **arguments))
        except MailError as error:
            raise Refused(error.detail or error.reply.text) from None

    return ask
