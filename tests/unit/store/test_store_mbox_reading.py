"""Reading mbox files: what other programs wrote, flags in the file, rewrites that a crash interrupts."""

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor, task

from lorrainemail.interfaces import Account, MailboxChange
from lorrainemail.ops.content import Content
from lorrainemail.ops.files import SYSTEM
from lorrainemail.store import mboxfile, mboxjournal
from lorrainemail.store.mailstore import MailStore
from lorrainemail.store.mbox import as_stored
from lorrainemail.store.mboxfile import take_apart, wire_form, with_flags

Open = Callable[..., Awaitable[MailStore]]

FOREIGN = b"""From carole@elorac.test Mon Jan  5 10:11:12 2026
Status: RO
X-Status: AF
X-Keywords: projet
X-UID: 7
Subject: one
Content-Length: 13

>From me
From you, not a separator

From bob@bricoleur.test Tue Jan  6 10:11:12 2026
Subject: two

text
"""


@pytest.fixture
def ann(bob: Account) -> Account:
    return attrs.evolve(bob, format="mbox")


def mbox(tmp_path: Path) -> Path:
    path = tmp_path / "mail" / "bricoleur.test" / "bob" / "mbox"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


async def written(tmp_path: Path, wanted: bytes) -> bytes:
    """The file once it has these octets and no lock; bounded."""
    for _ in range(500):
        data = mbox(tmp_path).read_bytes()
        if wanted in data and not mbox(tmp_path).with_name("mbox.rewrite").exists():
            return data
        await task.deferLater(reactor, 0.01, lambda: None)  # type: ignore[arg-type]
    raise AssertionError(f"{wanted!r} never reached the file")


@pytest_twisted.ensureDeferred
async def test_a_foreign_mbox_is_read_with_its_flags_and_without_its_own_fields(
    disk_store: MailStore, ann: Account, tmp_path: Path
) -> None:
    mbox(tmp_path).write_bytes(FOREIGN)
    inbox = await disk_store.home(ann).open("INBOX")
    assert list(inbox.uids()) == [1, 2]
    assert inbox.flags(1) == {"\\Seen", "\\Answered", "\\Flagged", "projet"}
    message = await inbox.message(1)
    assert await message.read() == b"Subject: one\r\n\r\nFrom me\r\nFrom you, not a separator\r\n"
    facts = await inbox.facts([1, 2], True)
    assert facts[0].internal_date == 1767607872
    assert facts[1].size == len(b"Subject: two\r\n\r\ntext\r\n")
    assert mbox(tmp_path).read_bytes() == FOREIGN, "reading changes nothing"
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_flags_reach_the_file_when_the_mailbox_is_closed(
    disk_store: MailStore, ann: Account, tmp_path: Path
) -> None:
    mbox(tmp_path).write_bytes(FOREIGN)
    inode = mbox(tmp_path).stat().st_ino
    inbox = await disk_store.home(ann).open("INBOX")
    await inbox.change_flags([2], "add", ["\\Seen", "\\Deleted"])
    await inbox.change_flags([1], "set", [])
    inbox.close()
    data = await written(tmp_path, b"X-Status: D")
    lines = [line.rstrip() for line in data.split(b"\n")]
    two = lines.index(b"Subject: two")
    assert lines[two - 4 : two] == [b"Status: RO", b"X-Status: D", b"X-UID: 2", b"X-Keywords:"]
    assert lines[1].startswith(b"X-IMAPbase: %d 0000000" % inbox.uid_validity)
    assert lines[1].endswith(b" projet")
    one = lines.index(b"Subject: one")
    assert lines[2 : one + 1] == [
        b"Status: O",
        b"X-UID: 1",
        b"Content-Length: 13",
        b"X-Keywords:",
        b"Subject: one",
    ]
    assert mbox(tmp_path).stat().st_ino == inode
    again = await disk_store.home(ann).open("INBOX")
    assert list(again.uids()) == [1, 2]
    assert again.flags(2) == {"\\Seen", "\\Deleted"}
    again.close()


@pytest_twisted.ensureDeferred
async def test_expunge_takes_out_the_message_and_nothing_else(
    disk_store: MailStore, ann: Account, tmp_path: Path
) -> None:
    mbox(tmp_path).write_bytes(FOREIGN)
    inbox = await disk_store.home(ann).open("INBOX")
    assert await inbox.expunge([1]) == (1,)
    assert mbox(tmp_path).read_bytes() == FOREIGN[FOREIGN.index(b"From bob") :]
    assert sorted(p.name for p in mbox(tmp_path).parent.glob("mbox*")) == ["mbox"]
    assert await inbox.append(Content(b"Subject: three\r\n\r\n"), ["\\Draft"], 1_000_000_000) == 3
    assert await inbox.expunge([2, 3]) == (2, 3)
    assert mbox(tmp_path).read_bytes() == b""
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_what_another_program_did_to_the_file_is_seen(
    disk_store: MailStore, ann: Account, tmp_path: Path
) -> None:
    mbox(tmp_path).write_bytes(FOREIGN)
    inbox = await disk_store.home(ann).open("INBOX")
    heard: list[MailboxChange] = []
    inbox.watch(heard.append)
    await inbox.refresh()
    second = FOREIGN[FOREIGN.index(b"From bob") :]
    third = second.replace(b"two", b"three")
    mbox(tmp_path).write_bytes(second.replace(b"Subject", b"Status: R\nSubject") + b"\n" + third)
    await inbox.refresh()
    assert list(inbox.uids()) == [2, 3]
    assert inbox.flags(2) == {"\\Seen"}
    assert [c.kind for c in heard] == ["flags", "added", "expunged"]
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_uids_and_flags_survive_a_restart(open_store: Open, ann: Account, tmp_path: Path) -> None:
    mbox(tmp_path).write_bytes(FOREIGN)
    store = await open_store()
    inbox = await store.home(ann).open("INBOX")
    await inbox.expunge([1])
    await inbox.change_flags([2], "add", ["\\Flagged"])
    validity = inbox.uid_validity
    store = await open_store()  # stopped before the flags reached the file
    inbox = await store.home(ann).open("INBOX")
    assert (inbox.uid_validity, list(inbox.uids())) == (validity, [2])
    assert inbox.flags(2) == {"\\Flagged"}
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_an_interrupted_rewrite_is_finished(
    disk_store: MailStore, ann: Account, tmp_path: Path
) -> None:
    start = FOREIGN.index(b"From bob")
    tail = FOREIGN[start:].replace(b"text", b"TEXT")
    mbox(tmp_path).write_bytes(FOREIGN)
    with mbox(tmp_path).open("r+b") as file:
        mboxjournal._write(SYSTEM, str(mbox(tmp_path)), file.fileno(), (), start, iter((tail,)))
    mbox(tmp_path).write_bytes(FOREIGN[:start] + tail[:9])
    rewrite = mbox(tmp_path).with_name("mbox.rewrite")
    inbox = await disk_store.home(ann).open("INBOX")
    assert mbox(tmp_path).read_bytes() == FOREIGN[:start] + tail
    assert not rewrite.exists()
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_half_a_journal_touches_nothing(disk_store: MailStore, ann: Account, tmp_path: Path) -> None:
    mbox(tmp_path).write_bytes(FOREIGN)
    rewrite = mbox(tmp_path).with_name("mbox.rewrite")
    rewrite.write_bytes(b"From half a journal")
    inbox = await disk_store.home(ann).open("INBOX")
    assert list(inbox.uids()) == [1, 2]
    assert mbox(tmp_path).read_bytes() == FOREIGN
    assert rewrite.with_name("mbox.rewrite.bad").exists()
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_two_equal_messages_are_two(disk_store: MailStore, ann: Account, tmp_path: Path) -> None:
    one = FOREIGN[FOREIGN.index(b"From bob") :] + b"\n"
    mbox(tmp_path).write_bytes(one * 3)
    inbox = await disk_store.home(ann).open("INBOX")
    assert list(inbox.uids()) == [1, 2, 3]
    await inbox.expunge([2])
    await inbox.refresh()
    assert list(inbox.uids()) == [1, 3]
    assert mbox(tmp_path).stat().st_size == 2 * len(one)
    inbox.close()


@given(st.binary(max_size=120), st.integers(0, 31))
def test_any_message_comes_back_from_its_stored_form(body: bytes, bits: int) -> None:
    body = body.replace(b"\x00", b"\nFrom ").replace(b"\x01", b"\r\n>From ").replace(b"\x02", b"\r\n")
    data = b"Subject: x\r\n\r\n" + body
    stored = b"".join(as_stored((data,)))
    segment = take_apart(stored)
    assert wire_form(segment) == data
    header = with_flags(segment, bits, ["a"], 7)
    assert header is not None
    again = take_apart(header + segment.rest)
    assert wire_form(again) == data
    assert with_flags(again, 0, [], 7, exact=len(header) - 1) is not None
    assert with_flags(segment, bits, ["a"], 7, exact=10) is None


@given(
    st.lists(
        st.sampled_from(
            [
                b"From a@b Mon Jan  5 10:11:12 2026\n",
                b"Subject: x\n",
                b"\n",
                b"From here\n",
                b"x" * 70 + b"\n",
                b"y",
            ]
        ),
        max_size=40,
    ),
    st.integers(1, 90),
)
def test_messages_are_found_wherever_the_file_is_cut_for_reading(lines: list[bytes], window: int) -> None:
    data = b"".join(lines)
    whole = [(match.start(), match.end()) for match in mboxfile._FROM_LINE.finditer(data)]
    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        file.write(data)
        file.flush()
        patch.setattr(mboxfile, "WINDOW", window)
        assert list(mboxfile._from_lines(file.fileno(), len(data))) == whole
        entries = mboxfile.parse(file.fileno()).entries
        patch.setattr(mboxfile, "WINDOW", 1 << 20)
        assert mboxfile.parse(file.fileno()).entries == entries
