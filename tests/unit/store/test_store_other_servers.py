"""What a Dovecot beside us wrote into the tree, copies that a crash interrupts, unique ids of copies."""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import pytest_twisted

from lorrainemail.errors import PermanentError
from lorrainemail.interfaces import Account, MailboxChange
from lorrainemail.ops.content import Content
from lorrainemail.ops.files import Files
from lorrainemail.pop3.maildrop import Maildrop
from lorrainemail.store import changes, sync
from lorrainemail.store.mailstore import MailStore
from lorrainemail.store.names import UniqueNames
from lorrainemail.store.tree import Tree

MESSAGE = b"Subject: Les volets\r\n\r\nBonjour\r\n"
Open = Callable[..., Awaitable[MailStore]]


def maildir(tmp_path: Path) -> Path:
    return tmp_path / "mail" / "bricoleur.test" / "bob" / "Maildir"


async def served(open_store: Open, bob: Account, count: int) -> tuple[int, int, list[str]]:
    """A server of ours was here and left: UIDVALIDITY, the next UID in its list, the files by UID."""
    store = await open_store()
    names = []
    for _ in range(count):
        placed = await store.placement(bob, "", b"", Content(MESSAGE), "id").commit()
        names.append(Path(placed.where).name)
    inbox = await store.home(bob).open("INBOX")
    await inbox.change_flags([1], "add", ["known"])
    validity = inbox.uid_validity
    inbox.close()
    return validity, count + 1, names


@pytest_twisted.ensureDeferred
async def test_uids_and_keywords_that_another_server_gave_meanwhile_are_taken_over(
    open_store: Open, bob: Account, tmp_path: Path
) -> None:
    validity, _, _ = await served(open_store, bob, 2)
    await (await open_store()).stopService()
    path = maildir(tmp_path)
    header, *lines = (path / "dovecot-uidlist").read_text().splitlines()
    assert header.startswith(f"3 V{validity} ") and len(lines) == 2, "a clean end writes the list"
    for name in ("1790000001.theirs", "1790000002.theirs"):
        (path / "cur" / f"{name}:2,Sb").write_bytes(b"Subject: x\n\n")
    theirs = "700 :1790000002.theirs\n701 :1790000001.theirs\n702 :1790000003.expunged\n"
    (path / "dovecot-uidlist").write_text("\n".join((header, *lines, theirs)))
    (path / "dovecot-keywords").write_text("0 known\n1 theirs\n")
    inbox = await (await open_store()).home(bob).open("INBOX")
    assert (inbox.uid_validity, list(inbox.uids())) == (validity, [1, 2, 700, 701])
    assert inbox.flags(700) == {"\\Seen", "theirs"}
    assert await inbox.append(Content(MESSAGE), ["theirs"], None) == 703
    inbox.close()


@pytest.mark.parametrize("how", ["other uid", "uid of another", "other validity", "higher validity"])
@pytest_twisted.ensureDeferred
async def test_uids_of_another_server_that_contradict_ours_raise_uidvalidity(
    open_store: Open, bob: Account, tmp_path: Path, how: str
) -> None:
    validity, following, (first, second) = await served(open_store, bob, 2)
    await (await open_store()).stopService()
    path = maildir(tmp_path)
    (path / "new" / "1790000001.theirs").write_bytes(b"Subject: x\n\n")
    text = {
        "other uid": f"3 V{validity} N{following}\n1 :{first}\n9 :{second}\n",
        "uid of another": f"3 V{validity} N{following}\n1 :{first}\n2 :1790000001.theirs\n",
        "other validity": f"3 V{validity - 100} N9\n1 :{first}\n2 :{second}\n",
        "higher validity": f"3 V{validity + 100} N9\n5 :{first}\n6 :{second}\n",
    }[how]
    (path / "dovecot-uidlist").write_text(text)
    inbox = await (await open_store()).home(bob).open("INBOX")
    assert inbox.uid_validity > validity
    assert len(inbox.uids()) == 3
    if how == "higher validity":
        assert (inbox.uid_validity, list(inbox.uids())) == (validity + 100, [5, 6, 9])
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_our_own_list_is_not_read_again(
    open_store: Open, bob: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    await served(open_store, bob, 2)
    await (await open_store()).stopService()
    monkeypatch.setattr(sync, "parse_uidlist", None)
    inbox = await (await open_store()).home(bob).open("INBOX")
    assert list(inbox.uids()) == [1, 2]
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_mail_of_an_unclean_end_is_in_the_list_that_the_next_clean_one_leaves(
    open_store: Open, bob: Account, tmp_path: Path
) -> None:
    validity, _, _ = await served(open_store, bob, 2)
    store = await open_store()  # the list is there, and promises more UIDs than it tells
    assert len((maildir(tmp_path) / "dovecot-uidlist").read_text().splitlines()) == 3
    inbox = await store.home(bob).open("INBOX")
    assert await inbox.append(Content(MESSAGE), [], None) == 3
    inbox.close()
    await (await open_store()).stopService()
    listed = (maildir(tmp_path) / "dovecot-uidlist").read_text()
    assert listed.startswith(f"3 V{validity} ")
    assert [line.split(" ")[0] for line in listed.splitlines()[1:]] == ["1", "2", "3"]


@pytest.mark.parametrize("closed", [False, True])
@pytest_twisted.ensureDeferred
async def test_an_index_that_vanishes_ends_what_is_open_even_when_the_first_to_notice_fails(
    open_store: Open, bob: Account, tmp_path: Path, closed: bool
) -> None:
    await served(open_store, bob, 2)
    store = await open_store()
    inbox = await store.home(bob).open("INBOX")
    heard: list[MailboxChange] = []
    inbox.watch(heard.append)
    tree: Tree = inbox._home.tree  # type: ignore[attr-defined]
    if closed:
        tree.close(False)  # as while other homes are busy
    for path in maildir(tmp_path).parent.glob("index.sqlite*"):
        path.unlink()
    with pytest.raises(PermanentError):
        await inbox.message(1)
    assert [change.kind for change in heard] == ["gone"]
    again = await store.home(bob).open("INBOX")
    assert again is not inbox and len(again.uids()) == 2
    inbox.close()
    again.close()


class Snapshots(Files):
    """Keeps the state of the disk before every change of a name."""

    __slots__ = ("root", "taken")

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.taken: list[Path] = []

    def _take(self) -> None:
        copy = self.root.with_name(f"crashed{len(self.taken)}")
        shutil.copytree(self.root, copy)
        self.taken.append(copy)

    def link(self, source: str, target: str) -> None:
        self._take()
        super().link(source, target)

    def rename(self, source: str, target: str) -> None:
        self._take()
        super().rename(source, target)

    def rename_new(self, source: str, target: str) -> None:
        self._take()
        super().rename_new(source, target)

    def rmdir(self, path: str) -> None:
        self._take()
        super().rmdir(path)


def test_a_server_that_ends_in_the_middle_of_a_copy_leaves_all_of_it_or_nothing(tmp_path: Path) -> None:
    root = tmp_path / "mail"
    for folder in ("Maildir", "Maildir/.Trash"):
        for sub in ("tmp", "new", "cur"):
            (root / "bob" / folder / sub).mkdir(parents=True)
    for number in range(3):
        (root / "bob" / "Maildir" / "cur" / f"170000000{number}.x:2,S").write_bytes(b"Subject: x\n\n")
    files = Snapshots(root)

    def tree_of(home: Path) -> Tree:
        tree = Tree(str(home), str(home / "bob"), "run", files, UniqueNames("host"), time.time)
        tree.begin()
        tree.job_begins()
        return tree

    tree = tree_of(root)
    inbox, trash = tree.present("INBOX").id, tree.present("Trash").id
    pairs = list(changes.copy(tree, inbox, [1, 2, 3], trash, False))
    assert not pairs and len(tree.index.names(tree.known(trash))) == 3
    found = []
    for crashed in list(files.taken):
        (crashed / "bob" / "index.sqlite").unlink(missing_ok=True)
        after = tree_of(crashed)
        found.append(len(after.index.names(after.present("Trash"))))
        assert not list((crashed / "bob" / "Maildir" / ".Trash").glob("lorrainemail-copy*"))
        after.close(False)
    # What POP3 clients know of INBOX, three links, and the rename that makes them whole; after it they are
    # completed.
    assert found == [0, 0, 0, 0, 0, 3, 3, 3, 3]
    assert not list((root / "bob" / "Maildir" / ".Trash").glob("lorrainemail-copy*"))
    tree.close(False)


@pytest.mark.parametrize("kept", ["maildir", "mbox"])
@pytest_twisted.ensureDeferred
async def test_a_copy_that_comes_back_has_a_pop3_id_of_its_own(
    disk_store: MailStore, bob: Account, kept: str
) -> None:
    home = disk_store.home(attrs.evolve(bob, format=kept))
    inbox, archive = await home.open("INBOX"), await home.open("Archive")
    await inbox.append(Content(MESSAGE), [], 1_700_000_000)
    await inbox.append(Content(MESSAGE), [], 1_700_000_000)
    await inbox.copy_to([1], archive)
    await archive.copy_to(archive.uids(), inbox)
    before = await Maildrop.open(home)
    ids = [before.unique_id(number) for number in before.numbers()]
    assert len(set(ids)) == len(ids) == 3
    await inbox.expunge([1])
    after = await Maildrop.open(home)
    assert [after.unique_id(number) for number in after.numbers()] == ids[1:]
    for one in (before, after, inbox, archive):
        one.close()


@pytest_twisted.ensureDeferred
async def test_a_tree_of_couriers_keeps_its_uids_and_subscriptions(
    open_store: Open, bob: Account, tmp_path: Path
) -> None:
    path = maildir(tmp_path)
    for part in ("tmp", "new", "cur", ".Work/tmp", ".Work/new", ".Work/cur"):
        (path / part).mkdir(parents=True)
    (path / "cur" / "1600000001.M1P1.host,S=12:2,S").write_bytes(b"Subject: a\n\n")
    (path / "cur" / "1600000002.M1P1.host,S=12:2,").write_bytes(b"Subject: b\n\n")
    (path / "courierimapuiddb").write_text(
        "1 1600000000 90\n17 1600000002.M1P1.host,S=12\n42 1600000001.M1P1.host,S=12\n"
    )
    (path / "courierimapsubscribed").write_text("INBOX\nINBOX.Work\nINBOX.Sent\nelsewhere\n")
    store = await open_store()
    home = store.home(bob)
    inbox = await home.open("INBOX")
    assert inbox.uid_validity == 1600000000 and list(inbox.uids()) == [17, 42] and inbox.uid_next == 90
    assert inbox.flags(42) == {"\\Seen"}
    inbox.close()
    listed = {folder.name: folder.subscribed for folder in await home.folders()}
    assert listed["Work"] and listed["Sent"]
    await store.stopService()
    (path / "courierimapuiddb").unlink()
    (path.parent / "index.sqlite").unlink()
    store = await open_store()  # what we wrote of it ourselves says the same
    inbox = await store.home(bob).open("INBOX")
    assert inbox.uid_validity == 1600000000 and list(inbox.uids()) == [17, 42]
    inbox.close()
