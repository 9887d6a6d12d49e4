"""Both stores, the one in memory and the one on disk, under the same tests."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from lorrainemail.addresses import parse_address
from lorrainemail.interfaces import Account, IStore
from lorrainemail.ops.committer import Committer
from lorrainemail.store.mailstore import MailStore
from lorrainemail.store.memory import MemoryStore

BOB = Account(parse_address("bob@bricoleur.test"))


@pytest.fixture
def bob() -> Account:
    return BOB


@pytest.fixture
def open_store(tmp_path: Any) -> Iterator[Callable[[], MailStore]]:
    """Makes stores on the same disk; one at a time."""
    running: list[tuple[MailStore, Committer]] = []

    def stop() -> None:
        while running:
            store, committer = running.pop()
            pytest_twisted.blockon(store.stopService())
            pytest_twisted.blockon(committer.stopService())

    def start(clean: bool = True) -> MailStore:
        if clean:
            stop()
        committer = Committer(reactor, str(tmp_path))
        committer.startService()
        store = MailStore(reactor, str(tmp_path / "mail"), committer, "mx.bricoleur.test")
        store.startService()
        running.append((store, committer))
        return store

    yield start
    stop()


@pytest.fixture
def disk_store(open_store: Callable[[], MailStore]) -> MailStore:
    return open_store()


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest) -> IStore:
    if request.param == "memory":
        made: IStore = MemoryStore(reactor)
        return made
    found: IStore = request.getfixturevalue("disk_store")
    return found
