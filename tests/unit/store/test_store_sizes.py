"""What an account with a quota holds is told to its owner and to other programs."""

from pathlib import Path
from typing import Any

import attrs
import pytest_twisted
from twisted.internet.task import Clock

from lorrainemail.interfaces import Account
from lorrainemail.ops.content import Content
from lorrainemail.store.sizes import DELAY, SizeFiles, printed

MESSAGE = b"Subject: x\r\n\r\n" + b"x" * 985 + b"\r\n"


async def deliver(store: Any, account: Account, count: int) -> None:
    for _ in range(count):
        await store.placement(account, "", b"", Content(MESSAGE), "id").commit()


def files_below(path: Path) -> list[Path]:
    return list(path.rglob("maildirsize"))


@pytest_twisted.ensureDeferred
async def test_maildirsize_says_what_is_there_when_the_server_has_ended(
    open_store: Any, bob: Account, tmp_path: Path
) -> None:
    limited = attrs.evolve(bob, quota=100_000, quota_messages=50)
    store = await open_store()
    await store.may_accept(limited, 1)
    await deliver(store, limited, 3)
    inbox = await store.home(limited).open("INBOX")
    await inbox.change_flags([2], "add", ["\\Deleted"])
    await inbox.expunge([2])
    inbox.close()
    await open_store()
    (file,) = files_below(tmp_path)
    assert file.read_text() == f"100000S,50C\n{2 * len(MESSAGE)} 2\n"


@pytest_twisted.ensureDeferred
async def test_an_account_without_a_quota_has_no_such_file(
    open_store: Any, bob: Account, tmp_path: Path
) -> None:
    store = await open_store()
    await deliver(store, bob, 2)
    await open_store()
    assert not files_below(tmp_path)


@pytest_twisted.ensureDeferred
async def test_the_owner_is_told_at_80_and_at_95_percent_once_each(open_store: Any, bob: Account) -> None:
    limited = attrs.evolve(bob, quota=100 * len(MESSAGE))
    store = await open_store()
    told: list[int] = []
    store.filling = lambda account, percent: told.append(percent)
    await store.may_accept(limited, 1)
    await deliver(store, limited, 79)
    assert told == []
    await deliver(store, limited, 3)
    assert told == [80]
    await deliver(store, limited, 12)
    assert told == [80]
    await deliver(store, limited, 2)
    assert told == [80, 95]
    inbox = await store.home(limited).open("INBOX")
    await inbox.expunge(list(inbox.uids())[:50])
    await deliver(store, limited, 36)
    assert told == [80, 95, 80]
    inbox.close()


def test_only_the_limits_that_are_set_are_said() -> None:
    assert printed(500, 0, (7, 1)) == b"500S\n7 1\n"
    assert printed(0, 20, (7, 1)) == b"20C\n7 1\n"


def test_many_changes_are_written_once_and_none_after_the_end() -> None:
    clock = Clock()
    wrote: list[bytes] = []

    class Sizes(SizeFiles):
        @staticmethod
        def _write(home: Any, data: bytes) -> None:
            wrote.append(data)

    class Home:
        account = type("Limits", (), {"quota": 500, "quota_messages": 0})
        usage = (7, 1)
        limited = True

    sizes, home = Sizes(clock), Home()
    for _ in range(3):
        sizes.soon(home)  # type: ignore[arg-type]
    clock.advance(DELAY)
    assert wrote == [b"500S\n7 1\n"]
    sizes.soon(home)  # type: ignore[arg-type]
    sizes.stop()
    assert len(wrote) == 2
    sizes.soon(home)  # type: ignore[arg-type]
    assert not clock.getDelayedCalls()
