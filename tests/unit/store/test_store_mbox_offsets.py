"""Mbox files beside other programs: only what changed is read, UIDs and flags in the file, locks, rests of
crashes with what others appended after them."""

import errno
import fcntl
import os
import struct
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor, task

from lorrainemail.errors import TemporaryError
from lorrainemail.interfaces import Account
from lorrainemail.ops.content import Content
from lorrainemail.ops.files import SYSTEM
from lorrainemail.store import locks, mboxbox, mboxfile, mboxjournal, mboxstamp, mboxsync, reading
from lorrainemail.store.mailstore import MailStore
from lorrainemail.store.mbox import as_stored
from lorrainemail.store.mboxfile import Entry, take_apart, wire_form, wire_pieces

Open = Callable[..., Awaitable[MailStore]]

LINE = b"From carole@elorac.test Mon Jan  5 10:11:12 2026\n"


def stored(subject: str, header: bytes = b"", body: bytes = b"text\n") -> bytes:
    return LINE + header + f"Subject: {subject}\n\n".encode() + body + b"\n"


@pytest.fixture
def ann(bob: Account) -> Account:
    return attrs.evolve(bob, format="mbox")


@pytest.fixture
def mbox(tmp_path: Path) -> Path:
    path = tmp_path / "mail" / "bricoleur.test" / "bob" / "mbox"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The parts of files that are read to find messages."""
    parts: list[tuple[int, int]] = []

    def scan(descriptor: int, start: int, size: int) -> Iterator[Any]:
        if start < size:
            parts.append((start, size))
        return mboxfile.scan(descriptor, start, size)

    monkeypatch.setattr(mboxsync, "scan", scan)
    return parts


async def deliver(store: MailStore, account: Account, subject: str) -> None:
    content = Content(f"Subject: {subject}\r\n\r\n>From me\r\n".encode())
    await store.placement(account, "", b"Return-Path: <carole@elorac.test>\r\n", content, "id").commit()


async def subjects(inbox: Any) -> list[bytes]:
    found = []
    for uid in inbox.uids():
        message = await inbox.message(uid)
        found.append((await message.read()).partition(b"Subject: ")[2].partition(b"\r\n")[0])
        message.close()
    return found


async def until(condition: Callable[[], object], what: str) -> None:
    for _ in range(1000):
        if condition():
            return
        await task.deferLater(reactor, 0.01, lambda: None)  # type: ignore[arg-type]
    raise AssertionError(what)


@pytest_twisted.ensureDeferred
async def test_of_a_delivery_only_the_end_is_read_and_of_our_own_changes_nothing(
    disk_store: MailStore, ann: Account, mbox: Any, scanned: list[tuple[int, int]]
) -> None:
    mbox.write_bytes(stored("one") + stored("two"))
    with mbox.open("rb") as file:
        # What was changed a moment ago is looked at again, whoever changes it next.
        await until(lambda: mboxstamp.believed(mboxstamp.stamp_of(file.fileno())), "a file at rest")
    inbox = await disk_store.home(ann).open("INBOX")
    size = mbox.stat().st_size
    assert scanned == [(0, size)]
    await deliver(disk_store, ann, "three")
    await inbox.refresh()
    assert scanned[1:] == [(size, mbox.stat().st_size)]
    assert await inbox.expunge([1]) == (1,)
    await inbox.change_flags([2, 3], "add", ["\\Seen"])
    await inbox.write_flags()  # type: ignore[attr-defined]
    await inbox.append(Content(b"Subject: four\r\n\r\n"), (), None)
    assert await subjects(inbox) == [b"two", b"three", b"four"]
    assert len(scanned) == 3, "the appended one"
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_another_programs_append_is_read_from_the_last_message_on(
    disk_store: MailStore, ann: Account, mbox: Any, scanned: list[tuple[int, int]]
) -> None:
    mbox.write_bytes(stored("one") + stored("two"))
    inbox = await disk_store.home(ann).open("INBOX")
    with mbox.open("ab") as file:
        file.write(stored("three"))
    await inbox.refresh()
    assert await subjects(inbox) == [b"one", b"two", b"three"]
    assert scanned[1:] == [(len(stored("one")), mbox.stat().st_size)]
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_a_flag_that_another_program_wrote_in_place_is_seen_and_only_that_message_read(
    disk_store: MailStore, ann: Account, mbox: Any, scanned: list[tuple[int, int]]
) -> None:
    one, two, three = (stored(name, b"Status: O \n") for name in ("one", "two", "three"))
    mbox.write_bytes(one + two + three)
    inbox = await disk_store.home(ann).open("INBOX")
    mbox.write_bytes(one + two.replace(b"Status: O ", b"Status: RO") + three)
    await inbox.refresh()
    assert [inbox.flags(uid) for uid in inbox.uids()] == [frozenset(), {"\\Seen"}, frozenset()]
    assert scanned[1:] == [(len(one), len(one + two))]
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_after_a_restart_the_file_is_not_read_again(
    open_store: Open, ann: Account, mbox: Any, scanned: list[tuple[int, int]]
) -> None:
    mbox.write_bytes(stored("one") + stored("two"))
    os.utime(mbox, (1, 1))
    store = await open_store()
    inbox = await store.home(ann).open("INBOX")
    inbox.close()
    store = await open_store()
    inbox = await store.home(ann).open("INBOX")
    assert await subjects(inbox) == [b"one", b"two"]
    assert len(scanned) == 1
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_a_message_that_moved_keeps_its_uid(disk_store: MailStore, ann: Account, mbox: Any) -> None:
    mbox.write_bytes(stored("one") + stored("two") + stored("three"))
    inbox = await disk_store.home(ann).open("INBOX")
    mbox.write_bytes(stored("three") + stored("new") + stored("two"))
    assert wire(await inbox.message(2)).endswith(b"two\r\n\r\ntext\r\n")
    assert wire(await inbox.message(3)).endswith(b"three\r\n\r\ntext\r\n")
    assert list(inbox.uids()) == [2, 3, 4]
    inbox.close()


def wire(message: Any) -> bytes:
    octets: bytes = message._data
    return octets


@pytest_twisted.ensureDeferred
async def test_uids_and_flags_are_in_the_file_and_outlive_the_index(
    open_store: Open, ann: Account, mbox: Any
) -> None:
    store = await open_store()
    for number in range(4):
        await deliver(store, ann, str(number))
    inbox = await store.home(ann).open("INBOX")
    await inbox.expunge([1])
    await inbox.change_flags([2, 3, 4], "set", ["\\Seen", "\\Flagged", "project"])
    await inbox.write_flags()  # type: ignore[attr-defined]
    validity = inbox.uid_validity
    inbox.close()
    store = await open_store()
    for path in mbox.parent.glob("index.sqlite*"):
        path.unlink()
    inbox = await store.home(ann).open("INBOX")
    assert (inbox.uid_validity, list(inbox.uids())) == (validity, [2, 3, 4])
    assert inbox.flags(3) == {"\\Seen", "\\Flagged", "project"}
    await deliver(store, ann, "another")
    await inbox.refresh()
    assert inbox.uids()[-1] > 4, "a UID that somebody may have seen is not given again"
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_uids_of_dovecot_are_taken_over_and_forged_ones_are_not(
    disk_store: MailStore, ann: Account, mbox: Any
) -> None:
    mbox.write_bytes(
        stored("one", b"X-IMAPbase: 1700000000 0000000050 project\nX-UID: 7\nStatus: RO\n")
        + stored("two", b"X-UID: 9\nX-Keywords: project      \n")
        + stored("forged", b"X-UID: 4294967295\n")
        + stored("again", b"X-UID: 9\n")
    )
    inbox = await disk_store.home(ann).open("INBOX")
    assert inbox.uid_validity == 1700000000
    assert list(inbox.uids()) == [7, 9, 51, 52]
    assert inbox.flags(9) == {"project"}
    text = mbox.read_bytes()
    promised = int(text.partition(b"X-IMAPbase: 1700000000 ")[2][:10])
    assert promised >= 52, "what the file says was given includes what clients see"
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_the_first_message_of_uw_is_hidden_and_kept(
    disk_store: MailStore, ann: Account, mbox: Any
) -> None:
    pseudo = (
        b"From MAILER-DAEMON Mon Jan  5 10:11:12 2026\n"
        b"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\n"
        b"X-IMAP: 1700000000 0000000002\nStatus: RO\n\nThis text is part of the internal format\n\n"
    )
    mbox.write_bytes(pseudo + stored("one", b"X-UID: 1\n") + stored("two", b"X-UID: 2\n"))
    inbox = await disk_store.home(ann).open("INBOX")
    assert (inbox.uid_validity, list(inbox.uids())) == (1700000000, [1, 2])
    await inbox.expunge([1])
    await inbox.change_flags([2], "add", ["\\Seen"])
    await inbox.write_flags()  # type: ignore[attr-defined]
    assert mbox.read_bytes().startswith(pseudo)
    assert b"X-IMAPbase" not in mbox.read_bytes()
    assert await subjects(inbox) == [b"two"]
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_flags_reach_the_file_after_a_while_although_the_mailbox_stays_open(
    disk_store: MailStore, ann: Account, mbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mboxbox, "UNWRITTEN", 0.02)
    await deliver(disk_store, ann, "one")
    inode = mbox.stat().st_ino
    inbox = await disk_store.home(ann).open("INBOX")
    await inbox.change_flags([1], "add", ["\\Seen"])
    await until(lambda: b"Status: RO" in mbox.read_bytes(), "the flag never reached the file")
    assert mbox.stat().st_ino == inode
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_in_mail_of_our_own_flags_move_nothing(disk_store: MailStore, ann: Account, mbox: Any) -> None:
    for number in range(3):
        await deliver(disk_store, ann, str(number))
    size = mbox.stat().st_size
    inbox = await disk_store.home(ann).open("INBOX")
    await inbox.change_flags([1, 2, 3], "set", ["\\Seen", "\\Answered", "\\Flagged"])
    await inbox.write_flags()  # type: ignore[attr-defined]
    assert mbox.stat().st_size == size
    assert mbox.read_bytes().count(b"\nX-Status: AF\n") == 3
    inbox.close()


def test_content_length_is_believed_where_it_is_true_only(mbox: Path) -> None:
    inner = b"before\n" + LINE + b"after\n"
    true = stored("true", b"Content-Length: %d\n" % len(inner), inner)
    false = stored("false", b"Content-Length: 20\n", b"short\n")
    beyond = stored("beyond", b"Content-Length: 99999\n", b"text\n")
    mbox.write_bytes(true + false + beyond + stored("last"))
    with mbox.open("rb") as file:
        entries = list(mboxfile.parse(file.fileno()).entries.values())
        texts = [wire_form(mboxfile.segment_of(file.fileno(), entry)) for entry in entries]
    assert [text.partition(b"\r\n")[0] for text in texts] == [
        b"Subject: true",
        b"Subject: false",
        b"Subject: beyond",
        b"Subject: last",
    ]
    assert texts[0].endswith(b"\r\n\r\n" + inner.replace(b"\n", b"\r\n"))


def test_mutts_own_fields_are_hidden_and_an_authors_lines_are_not() -> None:
    data = b"Lines: 3\nSubject: x\nStatus: RO\nContent-Length: 5\nLines: 1\n\ntext\n"
    assert wire_form(take_apart(data)) == b"Lines: 3\r\nSubject: x\r\n\r\ntext\r\n"


@given(st.binary(max_size=150), st.integers(2, 40))
def test_a_large_message_read_in_pieces_is_the_same(body: bytes, window: int) -> None:
    body = body.replace(b"\x00", b"\nFrom ").replace(b"\x01", b"\r\n>From ").replace(b"\x02", b"\r\n")
    text = b"Subject: x\r\n\r\n" + body
    data = b"".join(as_stored((text,), 20))
    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        file.write(LINE + data + b"\n")
        file.flush()
        patch.setattr(mboxfile, "WINDOW", window)
        patch.setattr(mboxfile, "_HEAD", len(data) // 2 + 60)
        entry = Entry(0, len(LINE), len(LINE) + len(data) + 1, 0, ())
        assert b"".join(wire_pieces(file.fileno(), entry)) == text


@pytest_twisted.ensureDeferred
async def test_a_large_message_stays_what_it_is_while_it_is_read(
    disk_store: MailStore, ann: Account, mbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mboxsync, "SMALL", 100)
    monkeypatch.setattr(reading, "SMALL", 100)
    body = b"".join(b"line %d\n" % number for number in range(500))
    mbox.write_bytes(stored("large", body=body) + stored("two"))
    inbox = await disk_store.home(ann).open("INBOX")
    message = await inbox.message(1)
    assert message.size == (await inbox.facts([1]))[0].size
    mbox.write_bytes(stored("two"))
    assert (await message.read(0, 30)).startswith(b"Subject: large\r\n\r\nline 0\r\n")
    assert (await message.read()).endswith(b"line 499\r\n")
    message.close()
    await inbox.refresh()
    assert await subjects(inbox) == [b"two"]
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_where_no_dotlock_can_be_made_the_files_own_lock_has_to_do(
    disk_store: MailStore, ann: Account, mbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise PermissionError(errno.EACCES, "a spool directory of others", path)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(locks.os, "open", refuse)
    await deliver(disk_store, ann, "one")
    assert mbox.read_bytes().count(b"Subject: one") == 1


@pytest_twisted.ensureDeferred
async def test_while_we_wait_for_a_dotlock_its_owner_can_lock_the_file(
    disk_store: MailStore, ann: Account, mbox: Any
) -> None:
    await deliver(disk_store, ann, "one")
    dotlock = mbox.with_name("mbox.lock")
    dotlock.write_text("procmail has it")
    done = disk_store.placement(ann, "", b"", Content(b"Subject: two\r\n\r\n"), "id").commit()
    whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    await until(lambda: len(disk_store.locks._held) == 1, "nobody waits")
    with mbox.open("r+b") as file:

        def locked() -> bool:
            try:
                fcntl.fcntl(file, fcntl.F_OFD_SETLK, whole)
            except BlockingIOError:
                return False
            return True

        await until(locked, "the file stays locked by who waits for the dotlock")
        assert not done.called
    dotlock.unlink()
    await done


@pytest_twisted.ensureDeferred
async def test_waiting_for_our_own_others_is_bounded_too(
    disk_store: MailStore, ann: Account, mbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deliver(disk_store, ann, "one")
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    with mbox.open("rb") as file:
        held = await_entered(disk_store, file.fileno())
        with pytest.raises(TemporaryError):
            await deliver(disk_store, ann, "two")
        disk_store.locks._leave(held)
    await deliver(disk_store, ann, "three")


def await_entered(store: MailStore, descriptor: int) -> tuple[int, int]:
    """Hold the process's own lock."""
    key = locks._key(descriptor)
    entering = store.locks._enter(key, "", store.clock.seconds() + 60)
    with pytest.raises(StopIteration):
        entering.send(None)
    return key


@pytest.mark.parametrize("written", [0, 20, 60, 10_000])
def test_what_others_append_after_a_crash_in_a_rewrite_is_kept(mbox: Path, written: int) -> None:
    old = [stored(name) for name in ("one", "two", "three", "four")]
    rest = b"".join(old[2:])
    mbox.write_bytes(b"".join(old))
    with mbox.open("r+b") as file:
        start = len(old[0])
        mboxjournal._write(SYSTEM, str(mbox), file.fileno(), (), start, iter((rest,)))
        if written:
            file.truncate(start)
            file.seek(start)
            file.write(rest[:written])
        file.seek(0, os.SEEK_END)
        file.write(stored("foreign"))
        file.flush()
        mboxjournal.settle(SYSTEM, str(mbox), file.fileno())
    assert mbox.read_bytes() == old[0] + rest + stored("foreign")
    assert [path.name for path in mbox.parent.iterdir()] == ["mbox"]


def test_what_others_rewrote_after_a_crash_in_a_rewrite_loses_nothing(mbox: Path) -> None:
    old = [stored(name) for name in ("one", "two", "three")]
    mbox.write_bytes(b"".join(old))
    with mbox.open("r+b") as file:
        start = len(old[0])
        mboxjournal._write(SYSTEM, str(mbox), file.fileno(), (), start, iter((old[2],)))
        file.truncate(start)
        mbox.write_bytes(stored("one", b"Status: RO\n") + stored("foreign"))
        mboxjournal.settle(SYSTEM, str(mbox), file.fileno())
    assert mbox.read_bytes() == stored("one", b"Status: RO\n") + stored("foreign") + old[2]


@pytest.mark.parametrize("written", [0, 5, 60, 90, 10_000])
def test_what_others_append_after_a_crash_in_an_append_is_kept(mbox: Path, written: int) -> None:
    good, ours = stored("one"), stored("ours").replace(b"carole", b"odile")
    mbox.write_bytes(good)
    line = ours[: ours.index(b"\n") + 1]

    class Killed(Exception):
        pass

    class Files(type(SYSTEM)):  # type: ignore[misc]
        def fsync(self, descriptor: int) -> None:
            if os.readlink(f"/proc/self/fd/{descriptor}") == str(mbox):
                raise Killed
            super().fsync(descriptor)

        def truncate(self, descriptor: int, length: int) -> None:
            raise Killed

    with mbox.open("r+b") as file:
        with pytest.raises(Killed):
            mboxjournal.append(Files(), str(mbox), file.fileno(), line, lambda: iter((ours[len(line) :],)))
        file.truncate(len(good) + min(written, len(ours)))
        file.seek(0, os.SEEK_END)
        file.write(stored("foreign"))
        file.flush()
        mboxjournal.settle(SYSTEM, str(mbox), file.fileno())
    kept = ours if written >= len(ours) else b""
    assert mbox.read_bytes() == good + kept + stored("foreign")
