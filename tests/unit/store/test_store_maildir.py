"""Other programs in the same Maildir, restarts, crashes, a lost index."""

import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor, task

from lorrainemail.interfaces import Account, IMailbox, MailboxChange
from lorrainemail.ops.content import Content
from lorrainemail.store.mailstore import MailStore

MESSAGE = b"From: carole@elorac.test\r\nSubject: Les volets\r\n\r\nBonjour\r\n"
Open = Callable[..., Awaitable[MailStore]]


def maildir(tmp_path: Path) -> Path:
    return tmp_path / "mail" / "bricoleur.test" / "bob" / "Maildir"


async def deliver(store: MailStore, account: Account, folder: str = "") -> Path:
    placed = await store.placement(account, folder, b"", Content(MESSAGE), "id").commit()
    return Path(placed.where)


async def inbox_of(store: MailStore, account: Account) -> IMailbox:
    return await store.home(account).open("INBOX")


def the_file(tmp_path: Path) -> Path:
    (found,) = [p for sub in ("new", "cur") for p in (maildir(tmp_path) / sub).iterdir()]
    return found


async def heard_in_time(heard: list[MailboxChange], kinds: list[str]) -> None:
    for _ in range(500):
        if [c.kind for c in heard] == kinds:
            return
        await task.deferLater(reactor, 0.01, lambda: None)  # type: ignore[arg-type]
    raise AssertionError(f"heard {heard}, wanted {kinds}")


@pytest_twisted.ensureDeferred
async def test_files_are_plain_maildir_with_lf_and_private(
    disk_store: MailStore, bob: Account, tmp_path: Path
) -> None:
    path = await deliver(disk_store, bob)
    assert path.parent == maildir(tmp_path) / "new"
    assert path.read_bytes() == MESSAGE.replace(b"\r\n", b"\n")
    lf, crlf = path.stat().st_size, len(MESSAGE)
    assert path.name.endswith(f".mx.bricoleur.test,S={lf},W={crlf}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for directory in (tmp_path / "mail", maildir(tmp_path).parent, maildir(tmp_path), path.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not list((maildir(tmp_path) / "tmp").iterdir())
    await disk_store.home(bob).create("Été")
    assert (maildir(tmp_path) / ".&AMk-t&AOk-" / "maildirfolder").exists()
    assert (maildir(tmp_path) / "subscriptions").read_text().split("\n")[0] == "INBOX"


@pytest_twisted.ensureDeferred
async def test_opening_leaves_new_mail_in_new_until_a_session_claims_it(
    disk_store: MailStore, bob: Account, tmp_path: Path
) -> None:
    path = await deliver(disk_store, bob)
    inbox = await inbox_of(disk_store, bob)
    assert path.exists()
    inbox.claim_recent([1])
    await inbox.facts([1])
    assert the_file(tmp_path) == maildir(tmp_path) / "cur" / (path.name + ":2,")
    await inbox.change_flags([1], "add", ["\\Seen", "\\Flagged"])
    assert the_file(tmp_path).name.endswith(":2,FS")
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_another_programs_changes_are_seen_at_refresh(
    disk_store: MailStore, bob: Account, tmp_path: Path
) -> None:
    first = await deliver(disk_store, bob)
    inbox = await inbox_of(disk_store, bob)
    inotify, disk_store.inotify = disk_store.inotify, None  # a system without it
    assert inotify is not None
    heard: list[MailboxChange] = []
    inbox.watch(heard.append)
    directory = maildir(tmp_path)
    (directory / "new" / "1000000001.x.y").write_bytes(b"Subject: later\n\n1\n")
    (directory / "new" / "1000000000.x.y").write_bytes(b"Subject: earlier\n\n2\n")
    os.rename(first, directory / "cur" / (first.name + ":2,PRS"))
    await inbox.refresh()
    assert list(inbox.uids()) == [1, 2, 3]
    assert inbox.flags(1) == {"\\Seen", "\\Answered"}
    message = await inbox.message(2)
    assert await message.read() == b"Subject: earlier\r\n\r\n2\r\n"
    (facts,) = await inbox.facts([2], True)
    assert facts.size == 23 and facts.envelope.startswith(b'(NIL "earlier"')
    await inbox.change_flags([1], "remove", ["\\Answered"])
    assert (directory / "cur" / (first.name + ":2,PS")).exists()
    os.unlink(directory / "new" / "1000000001.x.y")
    await inbox.refresh()
    assert list(inbox.uids()) == [1, 2]
    assert [c.kind for c in heard].count("expunged") == 1
    inbox.close()
    inotify.close()


@pytest_twisted.ensureDeferred
async def test_inotify_tells_a_watched_mailbox(disk_store: MailStore, bob: Account, tmp_path: Path) -> None:
    inbox = await inbox_of(disk_store, bob)
    heard: list[MailboxChange] = []
    end = inbox.watch(heard.append)
    directory = maildir(tmp_path)
    (directory / "tmp" / "1.x.y").write_bytes(b"Subject: x\n\n")
    os.rename(directory / "tmp" / "1.x.y", directory / "new" / "1.x.y")
    await heard_in_time(heard, ["added"])
    os.rename(directory / "new" / "1.x.y", directory / "cur" / "1.x.y:2,S")
    await heard_in_time(heard, ["added", "flags"])
    os.unlink(directory / "cur" / "1.x.y:2,S")
    await heard_in_time(heard, ["added", "flags", "expunged"])
    end()
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_a_delivery_reaches_a_watcher_without_being_asked(disk_store: MailStore, bob: Account) -> None:
    inbox = await inbox_of(disk_store, bob)
    heard: list[MailboxChange] = []
    inbox.watch(heard.append)
    await deliver(disk_store, bob)
    await heard_in_time(heard, ["added"])
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_a_flag_change_follows_a_file_that_was_renamed(
    disk_store: MailStore, bob: Account, tmp_path: Path
) -> None:
    path = await deliver(disk_store, bob)
    inbox = await inbox_of(disk_store, bob)
    os.rename(path, maildir(tmp_path) / "cur" / (path.name + ":2,F"))
    result = await inbox.change_flags([1], "add", ["\\Seen"])
    assert result.changed == (1,)
    assert inbox.flags(1) == {"\\Seen", "\\Flagged"}
    assert the_file(tmp_path).name.endswith(":2,FS")
    os.rename(the_file(tmp_path), maildir(tmp_path) / "cur" / (path.name + ":2,T"))
    message = await inbox.message(1)
    assert await message.read() == MESSAGE
    assert await inbox.expunge([1]) == (1,)
    assert not list((maildir(tmp_path) / "cur").iterdir())
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_a_message_that_another_program_removed_is_gone_not_an_error(
    disk_store: MailStore, bob: Account
) -> None:
    from lorrainemail.errors import PermanentError

    path = await deliver(disk_store, bob)
    inbox, trash = await inbox_of(disk_store, bob), await disk_store.home(bob).open("Trash")
    os.unlink(path)
    with pytest.raises(PermanentError):
        await inbox.message(1)
    assert (await inbox.change_flags([1], "add", ["\\Seen"])).changed == ()
    with pytest.raises(PermanentError):
        await inbox.copy_to([1], trash)
    assert list(trash.uids()) == []
    await inbox.refresh()
    assert list(inbox.uids()) == []
    inbox.close()
    trash.close()


@pytest_twisted.ensureDeferred
async def test_a_failed_copy_leaves_nothing_behind(
    disk_store: MailStore, bob: Account, tmp_path: Path
) -> None:
    await deliver(disk_store, bob)
    path = await deliver(disk_store, bob)
    inbox, trash = await inbox_of(disk_store, bob), await disk_store.home(bob).open("Trash")
    os.unlink(path)
    with pytest.raises(Exception, match="gone"):
        await inbox.copy_to([1, 2], trash)
    assert not list((maildir(tmp_path) / ".Trash" / "cur").iterdir())
    assert 1 in inbox.uids()
    assert await inbox.move_to([1, 2], trash) == [(1, 1)], "each for itself"
    assert 1 not in inbox.uids() and list(trash.uids()) == [1]
    inbox.close()
    trash.close()


@pytest_twisted.ensureDeferred
async def test_a_restart_keeps_uids_flags_keywords_and_ids(open_store: Open, bob: Account) -> None:
    store = await open_store()
    for _ in range(3):
        await deliver(store, bob)
    inbox = await inbox_of(store, bob)
    await inbox.change_flags([2], "add", ["\\Seen", "Projekt"])
    await inbox.expunge([3])
    before = (inbox.uid_validity, inbox.uid_next, inbox.highest_modseq, inbox.mailbox_id)
    ids = [f.message_id for f in await inbox.facts([1, 2])]
    store = await open_store()
    inbox = await inbox_of(store, bob)
    assert (inbox.uid_validity, inbox.uid_next, inbox.highest_modseq, inbox.mailbox_id) == before
    assert list(inbox.uids()) == [1, 2]
    assert inbox.flags(2) == {"\\Seen", "Projekt"}
    assert [f.message_id for f in await inbox.facts([1, 2])] == ids


@pytest_twisted.ensureDeferred
async def test_after_a_crash_no_uid_or_modseq_is_given_twice(open_store: Open, bob: Account) -> None:
    store = await open_store()
    await deliver(store, bob)
    inbox = await inbox_of(store, bob)
    seen = inbox.highest_modseq
    store = await open_store(clean=False)  # the first one never closes its index: as after kill -9
    await deliver(store, bob)
    inbox = await inbox_of(store, bob)
    assert inbox.uids()[0] == 1
    assert inbox.uids()[1] > 200
    assert inbox.highest_modseq > seen + 1000


@pytest_twisted.ensureDeferred
async def test_file_flags_win_at_start(open_store: Open, bob: Account, tmp_path: Path) -> None:
    store = await open_store()
    await deliver(store, bob)
    inbox = await inbox_of(store, bob)
    await inbox.change_flags([1], "add", ["\\Seen"])
    inbox.close()
    file = the_file(tmp_path)
    os.rename(file, str(file).replace(":2,S", ":2,FR"))
    store = await open_store()
    inbox = await inbox_of(store, bob)
    assert inbox.flags(1) == {"\\Flagged", "\\Answered"}
    inbox.close()


def lose_index(tmp_path: Path) -> None:
    for path in maildir(tmp_path).parent.glob("index.sqlite*"):
        path.unlink()


@pytest_twisted.ensureDeferred
async def test_a_lost_index_is_made_anew_with_a_higher_uidvalidity(
    open_store: Open, bob: Account, tmp_path: Path
) -> None:
    store = await open_store()
    await deliver(store, bob)
    inbox = await inbox_of(store, bob)
    await inbox.change_flags([1], "add", ["\\Seen", "Projekt"])
    (before,) = await inbox.facts([1])
    validity = inbox.uid_validity
    await task.deferLater(reactor, 1.1, lambda: None)  # type: ignore[arg-type]
    await open_store()
    await open_store()
    lose_index(tmp_path)
    (maildir(tmp_path) / "dovecot-uidlist").unlink()
    store = await open_store()
    inbox = await inbox_of(store, bob)
    assert inbox.uid_validity > validity
    assert inbox.flags(1) == {"\\Seen", "Projekt"}  # dovecot-keywords kept the word
    (after,) = await inbox.facts([1])
    assert (after.message_id, after.size) == (before.message_id, before.size)


@pytest_twisted.ensureDeferred
async def test_a_broken_index_is_set_aside_and_open_sessions_end(
    open_store: Open, bob: Account, tmp_path: Path
) -> None:
    store = await open_store()
    await deliver(store, bob)
    await inbox_of(store, bob)
    await open_store()
    index = maildir(tmp_path).parent / "index.sqlite"
    index.write_bytes(b"this is no database, and never was" * 200)
    store = await open_store()
    inbox = await inbox_of(store, bob)
    assert list(inbox.uids()) == [1]
    assert index.with_name("index.sqlite.bad").exists()
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_uids_are_mirrored_for_dovecot_and_found_again(
    open_store: Open, bob: Account, tmp_path: Path
) -> None:
    store = await open_store()
    for _ in range(3):
        await deliver(store, bob)
    inbox = await inbox_of(store, bob)
    await inbox.expunge([2])
    validity, modseq = inbox.uid_validity, inbox.highest_modseq
    inbox.mirror()  # type: ignore[attr-defined]
    await inbox.facts([1])
    uidlist = maildir(tmp_path) / "dovecot-uidlist"
    early = uidlist.read_text()
    lines = early.splitlines()
    assert lines[0].startswith(f"3 V{validity} N")
    assert [line.split(" ")[0] for line in lines[1:]] == ["1", "3"]
    await deliver(store, bob)
    await inbox.refresh()
    assert list(inbox.uids()) == [1, 3, 4]
    await open_store()
    assert uidlist.read_text().splitlines()[-1].startswith("4 :"), "it is whole after a clean end"
    uidlist.write_text(early)  # as if that end had not been clean
    lose_index(tmp_path)
    store = await open_store()
    inbox = await inbox_of(store, bob)
    assert inbox.uid_validity == validity
    assert list(inbox.uids())[:2] == [1, 3]
    assert inbox.uids()[2] > 4, "the UID that the list did not know may have been seen"
    assert inbox.highest_modseq >= modseq


@pytest_twisted.ensureDeferred
async def test_a_tree_that_dovecot_kept_is_adopted(open_store: Open, bob: Account, tmp_path: Path) -> None:
    directory = maildir(tmp_path)
    for sub in ("tmp", "new", "cur", ".Alt.Neu/tmp", ".Alt.Neu/new", ".Alt.Neu/cur"):
        (directory / sub).mkdir(parents=True)
    (directory / "cur" / "1500000000.M1P2.host,S=12,W=14:2,Sa").write_bytes(b"Subject: a\n\n")
    (directory / "cur" / "1500000001.M1P2.host:2,").write_bytes(b"Subject: b\n\n")
    (directory / "new" / "1500000002.M1P2.host").write_bytes(b"Subject: c\n\n")
    (directory / "dovecot-uidlist").write_text(
        "3 V1234567 N900 Gabc\n77 :1500000001.M1P2.host\n800 W14 :1500000000.M1P2.host,S=12,W=14\n"
    )
    (directory / "dovecot-keywords").write_text("0 $Forwarded\n")
    (directory / "subscriptions").write_text("Alt.Neu\n")
    store = await open_store()
    inbox = await inbox_of(store, bob)
    assert inbox.uid_validity == 1234567
    assert list(inbox.uids()) == [77, 800, 900]
    assert inbox.flags(800) == {"\\Seen", "$Forwarded"}
    (facts,) = await inbox.facts([900])
    assert facts.size == 14
    folders = {f.name: f.subscribed for f in await store.home(bob).folders()}
    assert folders == {"INBOX": False, "Alt": False, "Alt/Neu": True}


@pytest_twisted.ensureDeferred
async def test_a_wrong_size_in_a_files_name_is_mended_when_the_message_is_looked_at(
    disk_store: MailStore, bob: Account, tmp_path: Path
) -> None:
    inbox = await inbox_of(disk_store, bob)
    (maildir(tmp_path) / "cur" / "1500000000.M1P2.host,S=5,W=5:2,").write_bytes(b"Subject: a\n\n")
    await inbox.refresh()
    (facts,) = await inbox.facts([1], wire=True)
    assert facts.size == 14
    assert (await disk_store.home(bob).status("INBOX")).size == 14
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_links_and_directories_are_no_messages(
    disk_store: MailStore, bob: Account, tmp_path: Path
) -> None:
    await deliver(disk_store, bob)
    secret = tmp_path / "secret"
    secret.write_bytes(b"Subject: secret\n\n")
    (maildir(tmp_path) / "new" / "1.link").symlink_to(secret)
    (maildir(tmp_path) / "cur" / "2.dir:2,").mkdir()
    inbox = await inbox_of(disk_store, bob)
    facts = await inbox.facts(inbox.uids(), True)
    assert all(b"secret" not in f.envelope for f in facts)
    assert len(facts) == 1
    inbox.close()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("format", ["maildir", "mbox"])
async def test_junk_reaches_the_junk_folder_of_a_home_that_nobody_has_opened(
    disk_store: MailStore, bob: Account, tmp_path: Path, format: Any
) -> None:
    owner = attrs.evolve(bob, format=format)
    path = await deliver(disk_store, owner, "Junk")
    assert path.exists() and path.parent == maildir(tmp_path) / ".Junk" / "new"
    home = disk_store.home(owner)
    assert (await home.status("Junk")).messages == 1
    assert (await home.status("INBOX")).messages == 0


@pytest_twisted.ensureDeferred
async def test_a_delivery_into_a_folder_that_vanished_goes_to_inbox(
    disk_store: MailStore, bob: Account, tmp_path: Path
) -> None:
    import shutil

    home = disk_store.home(bob)
    await home.create("x")
    assert (await deliver(disk_store, bob, "x")).parent.parent.name == ".x"
    shutil.rmtree(maildir(tmp_path) / ".x")
    path = await deliver(disk_store, bob, "x")
    assert path.exists() and path.parent == maildir(tmp_path) / "new"
    shutil.rmtree(maildir(tmp_path))
    path = await deliver(disk_store, bob)
    assert path.exists()


@pytest_twisted.ensureDeferred
async def test_a_full_disk_is_temporary_and_leaves_nothing(
    disk_store: MailStore, bob: Account, tmp_path: Path
) -> None:
    from lorrainemail.errors import TemporaryError

    await deliver(disk_store, bob)
    (maildir(tmp_path) / "tmp").rmdir()
    (maildir(tmp_path) / "tmp").write_bytes(b"in the way")
    with pytest.raises(TemporaryError):
        await deliver(disk_store, bob)
    assert len(list((maildir(tmp_path) / "new").iterdir())) == 1


@pytest_twisted.ensureDeferred
async def test_many_homes_share_few_open_indexes(open_store: Open, bob: Account) -> None:
    from lorrainemail.addresses import parse_address
    from lorrainemail.store.strands import Strands

    store = await open_store()
    store.strands._max_open = 3
    assert isinstance(store.strands, Strands)
    accounts = [Account(parse_address(f"u{n}@x.test")) for n in range(12)]
    for account in accounts:
        await deliver(store, account)
    for _ in range(2):
        for account in accounts:
            assert (await store.home(account).status("INBOX")).messages == 1
    for _ in range(500):
        if sum(live.tree.is_open for live in store._homes.values()) <= 3:
            return
        await task.deferLater(reactor, 0.01, lambda: None)  # type: ignore[arg-type]
    raise AssertionError("indexes stay open")


@pytest_twisted.ensureDeferred
async def test_a_closed_mailbox_is_current_when_it_is_opened_again(
    disk_store: MailStore, bob: Account
) -> None:
    inbox = await inbox_of(disk_store, bob)
    inbox.close()
    await deliver(disk_store, bob)
    again = await inbox_of(disk_store, bob)
    assert list(again.uids()) == [1]
    assert again is inbox
    again.close()


@pytest_twisted.ensureDeferred
async def test_an_account_removed_and_made_anew_begins_anew(
    disk_store: MailStore, bob: Account, tmp_path: Path
) -> None:
    import shutil

    await deliver(disk_store, bob)
    inbox = await inbox_of(disk_store, bob)
    heard: list[MailboxChange] = []
    inbox.watch(heard.append)
    shutil.rmtree(maildir(tmp_path).parent)
    await deliver(disk_store, bob)
    again = await inbox_of(disk_store, bob)
    assert again is not inbox and len(again.uids()) == 1
    assert heard[-1].kind == "gone"
    assert (maildir(tmp_path).parent / "index.sqlite").exists()
    again.close()


def test_uids_are_synced_in_blocks_before_they_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorrainemail.store import index as module

    synced: list[str] = []
    index = module.Index(str(tmp_path / "index.sqlite"), "run")
    monkeypatch.setattr(module, "_sync", synced.append)

    def give(count: int) -> int:
        synced.clear()
        index.begin()
        index.savepoint()
        folder = index.folders().get("") or index.add_folder("", 1_700_000_000)
        first = index.allocate(folder, count)
        index.next_modseq(folder)
        index.release()
        index.commit()
        return first

    assert give(1) == 1 and synced == [str(tmp_path / "index.sqlite-wal")]
    assert give(module.UID_BLOCK) == 2 and not synced, "one sync serves a whole block"
    assert give(1) == module.UID_BLOCK + 2 and synced
    index.close()
    again = module.Index(str(tmp_path / "index.sqlite"), "another run")
    folder = again.folders()[""]
    assert folder.uid_next > module.UID_BLOCK * 2, "what a crash may have shown is skipped"
    again.close()
    third = module.Index(str(tmp_path / "index.sqlite"), "another run")
    assert third.folders()[""].uid_next == folder.uid_next
    third.give_back()
    third.close()
    fourth = module.Index(str(tmp_path / "index.sqlite"), "a run after a clean end")
    assert fourth.folders()[""].uid_next == folder.uid_next
    fourth.close()


@pytest_twisted.ensureDeferred
async def test_what_a_crash_left_in_tmp_is_swept_when_it_is_old(
    disk_store: MailStore, bob: Account, tmp_path: Path
) -> None:
    await deliver(disk_store, bob)
    old, young = maildir(tmp_path) / "tmp" / "1.old", maildir(tmp_path) / "tmp" / "2.young"
    staged = maildir(tmp_path).parent / "mbox.1500000000.M1P1Q1.host"
    for path in (old, young, staged):
        path.write_bytes(b"half")
    for path in (old, staged):
        os.utime(path, (1_500_000_000, 1_500_000_000))
    await disk_store.home(bob).folders()
    assert not old.exists() and not staged.exists() and young.exists()
