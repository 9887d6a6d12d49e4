"""What SORT, THREAD, SEARCH and QRESYNC ask a store for."""

import sqlite3
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted

from lorrainemail.interfaces import Account, IStore
from lorrainemail.ops.content import Content
from lorrainemail.store.index import Index
from lorrainemail.store.schema import SCHEMA_VERSION

MESSAGES = [
    b"From: Carole <carole@elorac.test>\r\nSubject: Re: Les volets\r\nMessage-ID: <2@elorac.test>\r\n"
    b"References: <1@elorac.test>\r\nDate: Thu, 1 Jan 1970 00:01:00 +0000\r\n\r\nx\r\n",
    b"From: Karl <k@x.test>\r\nSubject: plain\r\nReferences: see <1@y.test>\r\n\r\nx\r\n",
    b"From: k@x.test\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\n\r\nx\r\n",
    b"From: a@b.test\r\nFrom: hidden@c.test\r\nSubject: last\r\n\r\nx\r\n",
]


async def fill(store: IStore, bob: Account) -> Any:
    for data in MESSAGES:
        await store.placement(bob, "", b"", Content(data), "id").commit()
    return await store.home(bob).open("INBOX")


@pytest_twisted.ensureDeferred
async def test_sorting_facts_are_those_of_the_header(store: IStore, bob: Account) -> None:
    inbox = await fill(store, bob)
    names = ("base_subject", "is_reply", "sent", "header_id", "references", "size", "internal_date")
    first, second = await inbox.columns([3, 1, 77], names)
    assert first[:4] == (3, "CAFÉ", False, None)
    size = len(MESSAGES[0])
    assert second[:-1] == (1, "LES VOLETS", True, 60, b"<2@elorac.test>", b"<1@elorac.test>", size)
    assert second[-1] > 0
    assert await inbox.columns([2, 1], ("size",)) == [(2, len(MESSAGES[1])), (1, size)]
    (again,) = await inbox.columns([2], ("envelope",))
    assert b'"plain"' in again[1]
    inbox.close()


@pytest.mark.parametrize(
    ("field", "words", "expected"),
    [
        ("envelope", [b"volets"], [1, 3, 4]),
        ("envelope", [b"volets", b"les"], [1, 3, 4]),
        ("envelope", [b"karl"], [2, 3, 4]),
        ("envelope", [b"nowhere"], [3, 4]),
        ("envelope", [], [1, 2, 3, 4]),
        ("references", [b"1", b"elorac.test"], [1, 2, 4]),
        ("references", [b"see"], [2, 4]),
        ("references", [b"nowhere"], [2, 4]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_no_message_that_may_match_is_left_out(
    store: IStore, bob: Account, field: Any, words: list[bytes], expected: list[int]
) -> None:
    inbox = await fill(store, bob)
    await inbox.columns(inbox.uids(), ("envelope",))
    found = await inbox.candidates(field, words)
    assert found == expected
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_expunged_uids_are_told_as_far_back_as_they_are_known(store: IStore, bob: Account) -> None:
    inbox = await fill(store, bob)
    before = inbox.highest_modseq
    await inbox.expunge([2])
    middle = inbox.highest_modseq
    await inbox.expunge([4, 1])
    assert await inbox.expunged_since(middle) == [1, 4]
    assert await inbox.expunged_since(inbox.highest_modseq) == []
    assert await inbox.expunged_since(before) in (None, [1, 2, 4])
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_many_expunged_at_once_leave_the_right_ones(store: IStore, bob: Account) -> None:
    for _ in range(5):
        await fill(store, bob)
    inbox = await store.home(bob).open("INBOX")
    await inbox.expunge([2, 3, 7, 8, 9, 20])
    assert list(inbox.uids()) == [1, 4, 5, 6, *range(10, 20)]
    assert [uid for uid in range(1, 21) if inbox.flags(uid) is not None] == list(inbox.uids())
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_who_only_peeks_takes_no_message_from_being_recent(store: IStore, bob: Account) -> None:
    inbox = await fill(store, bob)
    assert inbox.claim_recent(inbox.uids(), peek=True) == {1, 2, 3, 4}
    assert inbox.claim_recent(inbox.uids()) == {1, 2, 3, 4}
    assert inbox.claim_recent(inbox.uids(), peek=True) == frozenset()
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_usage_is_counted_where_there_is_a_quota(store: IStore, bob: Account) -> None:
    inbox = await fill(store, bob)
    inbox.close()
    assert await store.home(bob).usage() == (0, 0)
    limited = attrs.evolve(bob, quota=10_000)
    assert await store.home(limited).usage() == (sum(map(len, MESSAGES)), 4)


def test_an_index_of_the_version_before_keeps_its_uids(tmp_path: Path) -> None:
    path = str(tmp_path / "index.sqlite")
    index = Index(path, "run")
    index.begin()
    folder = index.add_folder("", 1000)
    index.allocate(folder, 7)
    index.save_folders()
    index.commit()
    index.close()
    with sqlite3.connect(path) as db:
        (text,) = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'wire'").fetchone()
        before = text[: text.rindex("    marks")].rstrip()
        before = before.replace("refs BLOB NOT NULL, ", "refs BLOB NOT NULL ")
        db.execute("DROP TABLE wire")
        db.execute(f"{before}\n)")
        db.execute("DROP TABLE views")
        db.execute("PRAGMA user_version = 1")
    db.close()
    again = Index(path, "run")
    assert again.folders()[""].uid_next == 8
    again.begin()
    again.add_wire([(1, b"", b"", 0, None, "", b"", b"", b"", 3)])
    again.commit()
    again.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()
