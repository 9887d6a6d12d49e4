"""Both stores, the one in memory and the one on disk, under the same tests."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from lorrainemail.addresses import parse_address
from lorrainemail.interfaces import Account, IStore
from lorrainemail.ops.committer import Committer
from lorrainemail.store.mailstore import MailStore
from lorrainemail.store.memory import MemoryStore

BOB = Account(parse_address("bob@bricoleur.test"))


@pytest.fixture
def bob(request: pytest.FixtureRequest) -> Account:
    if "kind" in request.fixturenames and request.getfixturevalue("kind") == "mbox":
        return attrs.evolve(BOB, format="mbox")
    return BOB


@pytest.fixture(params=["memory", "maildir", "mbox"])
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def open_store(tmp_path: Any) -> Iterator[Callable[..., Awaitable[MailStore]]]:
    """Starts a store on the same disk, after ending the one before (or, unclean, beside it)."""
    running: list[tuple[MailStore, Committer]] = []

    async def stop() -> None:
        while running:
            store, committer = running.pop()
            await store.stopService()
            await committer.stopService()

    async def start(clean: bool = True) -> MailStore:
        if clean:
            await stop()
        committer = Committer(reactor, str(tmp_path))
        committer.startService()
        store = MailStore(reactor, str(tmp_path / "mail"), committer, "mx.bricoleur.test")
        store.startService()
        running.append((store, committer))
        return store

    yield start
    pytest_twisted.blockon(Deferred.fromCoroutine(stop()))


@pytest.fixture
def disk_store(open_store: Callable[..., Awaitable[MailStore]]) -> MailStore:
    opened: MailStore = pytest_twisted.blockon(Deferred.fromCoroutine(open_store()))
    return opened


@pytest.fixture
def store(request: pytest.FixtureRequest, kind: str) -> IStore:
    if kind == "memory":
        made: IStore = MemoryStore(reactor)
        return made
    found: IStore = request.getfixturevalue("disk_store")
    return found
