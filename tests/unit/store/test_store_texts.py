"""The text index on disk."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest_twisted

from lorrainemail.interfaces import Account
from lorrainemail.message.searchable import grams
from lorrainemail.ops.content import Content
from lorrainemail.store import fulltext, texts
from lorrainemail.store.mailstore import MailStore


def message(text: str) -> bytes:
    return f"Subject: x\r\n\r\n{text}\r\n".encode()


async def fill(store: MailStore, bob: Account, *bodies: str) -> Any:
    for text in bodies:
        await store.placement(bob, "", b"", Content(message(text)), "id").commit()
    return await store.home(bob).open("INBOX")


async def take_all_in(mailbox: Any) -> int:
    mark = 0
    while (reached := await mailbox.take_in(mark)) > mark:
        mark = reached
    return mark


async def asked(mailbox: Any, text: str) -> tuple[int, list[int]]:
    found = await mailbox.text_candidates(tuple(grams(text)))
    return found.mark, sorted(found.uids)


@pytest_twisted.ensureDeferred
async def test_the_text_index_names_what_may_match_and_knows_how_far_it_goes(
    disk_store: MailStore, bob: Account
) -> None:
    inbox = await fill(disk_store, bob, "les volets bleus", "la porte", "un volet")
    assert await asked(inbox, "volet") == (0, [])  # nothing is in, so nothing is ruled out
    assert await take_all_in(inbox) == 3
    assert await asked(inbox, "VOLÉT") == (3, [1, 3])
    await disk_store.placement(bob, "", b"", Content(message("volet neuf")), "id").commit()
    await inbox.refresh()
    assert await asked(inbox, "volet") == (3, [1, 3])
    assert await take_all_in(inbox) == 4
    assert await asked(inbox, "volet") == (4, [1, 3, 4])
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_it_is_there_after_a_restart_and_of_another_folder_of_the_name_it_knows_nothing(
    open_store: Callable[..., Awaitable[MailStore]], bob: Account
) -> None:
    store = await open_store()
    await store.home(bob).create("Work")
    for _ in range(2):
        await store.placement(bob, "Work", b"", Content(message("volets")), "id").commit()
    work = await store.home(bob).open("Work")
    await take_all_in(work)
    work.close()
    store = await open_store()
    work = await store.home(bob).open("Work")
    assert await asked(work, "volets") == (2, [1, 2])
    work.close()
    await store.home(bob).delete("Work")
    await store.home(bob).create("Work")
    work = await store.home(bob).open("Work")
    assert await asked(work, "volets") == (0, [])
    work.close()


@pytest_twisted.ensureDeferred
async def test_a_damaged_text_index_is_begun_anew(
    open_store: Callable[..., Awaitable[MailStore]], bob: Account, tmp_path: Path
) -> None:
    store = await open_store()
    inbox = await fill(store, bob, "les volets")
    await take_all_in(inbox)
    inbox.close()
    await store.stopService()
    (path,) = tmp_path.rglob("search.sqlite")  # noqa: ASYNC240
    path.write_bytes(b"this is no database" * 1000)
    store = await open_store()
    inbox = await store.home(bob).open("INBOX")
    assert await asked(inbox, "volets") == (0, [])
    assert await take_all_in(inbox) == 1
    assert await asked(inbox, "volets") == (1, [1])
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_messages_too_large_for_it_are_looked_at_every_time(
    disk_store: MailStore, bob: Account, monkeypatch: Any
) -> None:
    monkeypatch.setattr(texts, "MAX_READ", 1000)
    inbox = await fill(disk_store, bob, "volets", "porte " * 60_000, "porte")
    await take_all_in(inbox)
    assert await asked(inbox, "volets") == (3, [1, 2])
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_it_is_begun_anew_when_most_of_it_is_about_messages_that_are_gone(
    disk_store: MailStore, bob: Account, monkeypatch: Any
) -> None:
    monkeypatch.setattr(texts, "MAX_STALE", 2)
    inbox = await fill(disk_store, bob, *["volets"] * 9)
    await take_all_in(inbox)
    await inbox.expunge(list(range(1, 9)))
    assert (await asked(inbox, "volets"))[0] == 9
    await inbox.take_in(0)
    assert await asked(inbox, "volets") == (9, [9])
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_a_search_has_the_texts_taken_in_in_the_background(disk_store: MailStore, bob: Account) -> None:
    inbox = await fill(disk_store, bob, "les volets", "la porte")
    steps: list[int] = []
    real = inbox.take_in

    class Spy:
        users = 0

        def take_in(self, mark: int) -> Any:
            return real(mark).addCallback(lambda reached: steps.append(reached) or reached)

        def close(self) -> None:
            done.callback(None)

    from twisted.internet.defer import Deferred

    done: Deferred[None] = Deferred()
    disk_store.indexing.ask(Spy())  # type: ignore[arg-type]
    await done.addTimeout(10, disk_store.clock)
    assert steps == [2, 0]
    assert await asked(inbox, "volets") == (2, [1])
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_what_a_message_says_is_asked_in_one_go(disk_store: MailStore, bob: Account) -> None:
    inbox = await fill(disk_store, bob, "a", "b" * 400_000)
    assert await inbox.examine([1, 2, 77], len) == {1: len(message("a")), 77: None}
    inbox.close()


def test_a_question_with_very_many_grams_is_cut(tmp_path: Path) -> None:
    index = fulltext.TextIndex(str(tmp_path / "search.sqlite"))
    text = " ".join(f"word{number:04}" for number in range(500))
    index.add("m", 1, [(1, grams(text)), (2, grams("other"))], 2)
    place = index.place("m", 1)
    assert place is not None and index.candidates(place, tuple(grams(text)), 1, 2) == [1]
    index.close()
