"""What every store does, whatever it keeps mail in."""

from typing import Any

import attrs
import pytest
import pytest_twisted

from lorrainemail.errors import PermanentError
from lorrainemail.interfaces import Account, IMailbox, IStore, MailboxChange, later
from lorrainemail.ops.content import Content

MESSAGE = b"From: carole@elorac.test\r\nSubject: Les volets\r\nMessage-ID: <1@elorac.test>\r\n\r\nBonjour\r\n"


async def deliver(store: IStore, account: Account, data: bytes = MESSAGE, folder: str = "") -> Any:
    return await store.placement(account, folder, b"Delivered-To: bob\r\n", Content(data), "id").commit()


async def octets(mailbox: IMailbox, uid: int) -> bytes:
    message = await mailbox.message(uid)
    data = await message.read()
    assert len(data) == message.size
    message.close()
    return data


async def refused(awaitable: Any) -> str:
    with pytest.raises(PermanentError) as caught:
        await awaitable
    return caught.value.detail


@pytest_twisted.ensureDeferred
async def test_a_delivered_message_is_read_back_byte_for_byte(store: IStore, bob: Account) -> None:
    placed = await deliver(store, bob)
    assert (placed.account, placed.folder) == ("bob@bricoleur.test", "INBOX")
    inbox = await store.home(bob).open("inbox")
    assert list(inbox.uids()) == [1]
    assert await octets(inbox, 1) == b"Delivered-To: bob\r\n" + MESSAGE
    assert inbox.flags(1) == frozenset()
    assert inbox.uid_next == 2
    (facts,) = await inbox.facts([1], True)
    assert facts.size == len(MESSAGE) + 19
    inbox.close()


@pytest.mark.parametrize(
    "body",
    [b"", b"no end", b"a\nb\rc\r\n\r\r\n", b"\r", b"\n", b"\r\n", b".\r\n", b"\0\xff\r\n", b"x\r" * 99],
)
@pytest_twisted.ensureDeferred
async def test_wild_line_ends_are_kept(store: IStore, bob: Account, body: bytes) -> None:
    await deliver(store, bob, b"Subject: x\r\n\r\n" + body)
    inbox = await store.home(bob).open("INBOX")
    expected = b"Delivered-To: bob\r\nSubject: x\r\n\r\n" + body
    assert await octets(inbox, 1) == expected
    assert (await inbox.facts([1]))[0].size == len(expected)
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_staged_mail_is_seen_only_after_publish_and_never_after_abort(
    store: IStore, bob: Account
) -> None:
    inbox = await store.home(bob).open("INBOX")
    one = store.placement(bob, "", b"", Content(MESSAGE), "a")
    two = store.placement(bob, "", b"", Content(MESSAGE), "b")
    await one.stage()
    await two.stage()
    await inbox.refresh()
    assert list(inbox.uids()) == []
    await two.abort()
    await one.publish()
    await inbox.refresh()
    assert list(inbox.uids()) == [1]
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_mail_for_a_missing_folder_goes_to_inbox(store: IStore, bob: Account) -> None:
    await store.home(bob).create("Listes/Python")
    assert (await deliver(store, bob, folder="Listes/Python")).folder == "Listes/Python"
    assert (await deliver(store, bob, folder="Nirgends")).folder == "INBOX"
    assert (await deliver(store, bob, folder="../../x")).folder == "INBOX"
    assert (await store.home(bob).status("Listes/Python")).messages == 1
    assert (await store.home(bob).status("INBOX")).messages == 2


@pytest_twisted.ensureDeferred
async def test_a_watcher_hears_of_everything_in_order(store: IStore, bob: Account) -> None:
    inbox = await store.home(bob).open("INBOX")
    other = await store.home(bob).open("INBOX")
    heard: list[MailboxChange] = []
    end = inbox.watch(heard.append)
    await deliver(store, bob)
    await inbox.refresh()
    await other.change_flags([1], "add", ["\\Seen", "wichtig"])
    await other.expunge([1])
    assert [(c.kind, c.uids) for c in heard] == [("added", (1,)), ("flags", (1,)), ("expunged", (1,))]
    modseqs = [c.modseq for c in heard]
    assert modseqs == sorted(set(modseqs)) and inbox.highest_modseq == modseqs[-1]
    end()
    await deliver(store, bob)
    await inbox.refresh()
    assert len(heard) == 3
    inbox.close()
    other.close()


@pytest_twisted.ensureDeferred
async def test_flags_are_added_removed_and_set(store: IStore, bob: Account) -> None:
    for _ in range(3):
        await deliver(store, bob)
    inbox = await store.home(bob).open("INBOX")
    result = await inbox.change_flags([1, 2, 9], "add", ["\\seen", "$Junk"])
    assert result.changed == (1, 2)
    assert inbox.flags(1) == {"\\Seen", "$Junk"}
    assert (await inbox.change_flags([1, 2], "add", ["\\Seen"])).changed == ()
    await inbox.change_flags([1], "remove", ["$JUNK", "unknown"])
    assert inbox.flags(1) == {"\\Seen"}
    await inbox.change_flags([2], "set", ["\\Draft", "$Forwarded"])
    assert inbox.flags(2) == {"\\Draft", "$Forwarded"}
    assert inbox.flags(9) is None
    before = inbox.highest_modseq
    result = await inbox.change_flags([1, 3], "add", ["\\Flagged"], unchanged_since=inbox.modseq(3))
    assert (result.changed, result.modified) == ((3,), (1,))
    assert inbox.modseq(3) == inbox.highest_modseq > before
    assert (await inbox.facts([3]))[0].flags == {"\\Flagged"}
    assert await refused(inbox.change_flags([1], "add", ["\\Unsinn"])) == "CANNOT"
    assert await refused(inbox.change_flags([1], "add", ["a b"])) == "CANNOT"
    assert await refused(inbox.change_flags([1], "add", [f"k{n}" for n in range(80)])) == "LIMIT"
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_expunged_messages_are_gone_and_their_uids_never_come_again(
    store: IStore, bob: Account
) -> None:
    for _ in range(4):
        await deliver(store, bob)
    inbox = await store.home(bob).open("INBOX")
    view = inbox.uids()
    assert await inbox.expunge([2, 4, 4, 77]) == (2, 4)
    assert list(view) == [1, 2, 3, 4]
    assert list(inbox.uids()) == [1, 3]
    assert await refused(inbox.message(2)) == "EXPUNGEISSUED"
    assert [f.uid for f in await inbox.facts([2, 3])] == [3]
    await deliver(store, bob)
    await inbox.refresh()
    assert list(inbox.uids()) == [1, 3, 5]
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_an_appended_message_has_its_flags_and_date(store: IStore, bob: Account) -> None:
    sent = await store.home(bob).open("Sent")
    uid = await sent.append(Content(MESSAGE), ["\\Seen", "$MDNSent"], 1_000_000_000)
    assert uid == 1 and sent.flags(1) == {"\\Seen", "$MDNSent"}
    (facts,) = await sent.facts([1])
    assert facts.internal_date == 1_000_000_000 and facts.save_date > 1_500_000_000
    assert await octets(sent, 1) == MESSAGE
    assert await sent.append(Content(b""), [], None) == 2
    assert await octets(sent, 2) == b""
    sent.close()


@pytest_twisted.ensureDeferred
async def test_copies_and_moves_keep_flags_octets_and_id(store: IStore, bob: Account) -> None:
    home = store.home(bob)
    for _ in range(3):
        await deliver(store, bob)
    inbox, trash = await home.open("INBOX"), await home.open("Trash")
    await inbox.change_flags([2], "add", ["\\Flagged", "Later"])
    assert await inbox.copy_to([1, 2, 8], trash) == [(1, 1), (2, 2)]
    assert trash.flags(2) == {"\\Flagged", "Later"}
    assert await octets(trash, 2) == await octets(inbox, 2)
    assert (await trash.facts([2], True))[0].envelope == (await inbox.facts([2], True))[0].envelope
    assert (await trash.facts([2]))[0].message_id == (await inbox.facts([2]))[0].message_id
    assert (await trash.facts([2]))[0].internal_date == (await inbox.facts([2]))[0].internal_date
    assert await inbox.move_to([3, 2], trash) == [(3, 3), (2, 4)]
    assert list(inbox.uids()) == [1]
    assert list(trash.uids()) == [1, 2, 3, 4]
    assert trash.flags(4) == {"\\Flagged", "Later"}
    assert await inbox.copy_to([77], trash) == []
    inbox.close()
    trash.close()


@pytest_twisted.ensureDeferred
async def test_a_message_is_recent_to_one_session_only(store: IStore, bob: Account) -> None:
    await deliver(store, bob)
    inbox = await store.home(bob).open("INBOX")
    assert (await store.home(bob).status("INBOX")).recent == 1
    assert inbox.claim_recent([1]) == {1}
    assert inbox.claim_recent([1]) == frozenset()
    await deliver(store, bob)
    await inbox.refresh()
    assert inbox.claim_recent(inbox.uids()) == {2}
    assert (await store.home(bob).status("INBOX")).recent == 0
    assert await octets(inbox, 1) == b"Delivered-To: bob\r\n" + MESSAGE
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_a_new_home_has_the_usual_folders(store: IStore, bob: Account) -> None:
    folders = {f.name: f for f in await store.home(bob).folders()}
    assert next(iter(folders)) == "INBOX"
    assert {n: f.special_use for n, f in folders.items() if f.special_use} == {
        "Archive": ("\\Archive",),
        "Drafts": ("\\Drafts",),
        "Junk": ("\\Junk",),
        "Sent": ("\\Sent",),
        "Trash": ("\\Trash",),
    }
    assert all(f.subscribed and f.selectable for f in folders.values())


@pytest_twisted.ensureDeferred
async def test_folders_are_made_renamed_and_deleted(store: IStore, bob: Account) -> None:
    home = store.home(bob)
    await home.create("Été/a.b/&c")
    assert await refused(home.create("Été")) == "ALREADYEXISTS"
    assert await refused(home.create("inbox")) == "ALREADYEXISTS"
    assert await refused(home.create("a//b")) == "CANNOT"
    assert await refused(home.create("a\x07b")) == "CANNOT"
    await deliver(store, bob, folder="Été/a.b/&c")
    await home.rename("Été/a.b", "Winter/neu")
    names = {f.name for f in await home.folders()}
    assert {"Été", "Winter/neu", "Winter/neu/&c"} <= names and "Été/a.b" not in names
    assert (await home.status("Winter/neu/&c")).messages == 1
    assert await refused(home.rename("Été/a.b", "x")) == "NONEXISTENT"
    assert await refused(home.rename("Winter/neu", "Winter/neu/tiefer")) == "CANNOT"
    assert await refused(home.rename("Winter/neu", "Sent")) == "ALREADYEXISTS"
    await home.delete("Winter/neu")
    assert (await home.status("Winter/neu/&c")).messages == 1
    assert await refused(home.open("Winter/neu")) == "NONEXISTENT"
    assert await refused(home.delete("INBOX")) == "CANNOT"
    assert await refused(home.delete("Nirgends")) == "NONEXISTENT"
    assert await refused(home.status("Nirgends")) == "NONEXISTENT"


@pytest_twisted.ensureDeferred
async def test_a_folder_made_again_has_another_uidvalidity(store: IStore, bob: Account) -> None:
    home = store.home(bob)
    await home.create("x")
    first = await home.status("x")
    await home.delete("x")
    await home.create("x")
    again = await home.status("x")
    assert again.uid_validity > first.uid_validity and again.mailbox_id != first.mailbox_id


@pytest_twisted.ensureDeferred
async def test_sessions_in_a_deleted_folder_are_told(store: IStore, bob: Account) -> None:
    home = store.home(bob)
    await home.create("x")
    mailbox = await home.open("x")
    heard: list[MailboxChange] = []
    mailbox.watch(heard.append)
    await home.delete("x")
    assert [c.kind for c in heard] == ["gone"]
    mailbox.close()


@pytest_twisted.ensureDeferred
async def test_a_renamed_folder_stays_open(store: IStore, bob: Account) -> None:
    home = store.home(bob)
    await home.create("x")
    mailbox = await home.open("x")
    await home.rename("x", "y/z")
    assert mailbox.name == "y/z"
    assert await mailbox.append(Content(MESSAGE), [], None) == 1
    assert (await home.status("y/z")).messages == 1
    mailbox.close()


@pytest_twisted.ensureDeferred
async def test_renaming_inbox_moves_its_mail_and_leaves_it(store: IStore, bob: Account) -> None:
    home = store.home(bob)
    await deliver(store, bob)
    await home.rename("INBOX", "Alt")
    assert (await home.status("INBOX")).messages == 0
    assert (await home.status("Alt")).messages == 1


@pytest_twisted.ensureDeferred
async def test_subscriptions_are_kept_apart_from_folders(store: IStore, bob: Account) -> None:
    home = store.home(bob)
    await home.create("Listes/é.x")
    await home.subscribe("Listes/é.x", True)
    await home.subscribe("Junk", False)
    await home.subscribe("Junk", False)
    folders = {f.name: f.subscribed for f in await home.folders()}
    assert folders["Listes/é.x"] and not folders["Junk"] and not folders["Listes"]


@pytest_twisted.ensureDeferred
async def test_status_counts(store: IStore, bob: Account) -> None:
    home = store.home(bob)
    for _ in range(3):
        await deliver(store, bob)
    inbox = await home.open("INBOX")
    await inbox.change_flags([1, 2], "add", ["\\Seen"])
    await inbox.change_flags([2], "add", ["\\Deleted"])
    status = await home.status("INBOX")
    assert (status.messages, status.unseen, status.deleted) == (3, 1, 1)
    assert status.size == 3 * (len(MESSAGE) + 19)
    assert (status.uid_next, status.uid_validity) == (4, inbox.uid_validity)
    assert (status.highest_modseq, status.mailbox_id) == (inbox.highest_modseq, inbox.mailbox_id)
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_quota_refuses_what_is_too_much(store: IStore, bob: Account) -> None:
    small = attrs.evolve(bob, quota=300)
    assert await later(store.may_accept(small, 200)) is None
    await deliver(store, small)
    reply = await later(store.may_accept(small, 250))
    assert reply is not None and reply.code == 552
    assert await later(store.may_accept(bob, 10**9)) is None
    few = attrs.evolve(bob, quota_messages=1)
    assert await later(store.may_accept(few, 1)) is not None
    inbox = await store.home(few).open("INBOX")
    assert await refused(inbox.append(Content(MESSAGE), [], None)) == "OVERQUOTA"
    await inbox.expunge([1])
    assert await inbox.append(Content(MESSAGE), [], None) == 2
    inbox.close()


@pytest_twisted.ensureDeferred
async def test_store_events_tell_account_and_folder(store: IStore, bob: Account) -> None:
    heard: list[tuple[str, str, str]] = []
    store.watch(lambda *event: heard.append(event))
    home = store.home(bob)
    await deliver(store, bob)
    inbox, trash = await home.open("INBOX"), await home.open("Trash")
    await inbox.change_flags([1], "add", ["\\Seen"])
    await inbox.copy_to([1], trash)
    await inbox.expunge([1])
    key = "bob@bricoleur.test"
    assert heard == [
        ("delivered", key, "INBOX"),
        ("flagged", key, "INBOX"),
        ("copied", key, "Trash"),
        ("expunged", key, "INBOX"),
    ]
    inbox.close()
    trash.close()


@pytest_twisted.ensureDeferred
async def test_a_large_message_is_read_by_ranges(store: IStore, bob: Account) -> None:
    lines = b"".join(b"%d %s\r\n" % (n, b"x" * (n % 70)) for n in range(20_000))
    data = b"Subject: large\r\n\r\n" + lines
    await deliver(store, bob, data)
    whole = b"Delivered-To: bob\r\n" + data
    inbox = await store.home(bob).open("INBOX")
    message = await inbox.message(1)
    assert message.size == len(whole)
    for offset, length in [(0, 10), (65_530, 20), (131_000, 200_000), (len(whole) - 5, 50), (len(whole), 9)]:
        assert await message.read(offset, length) == whole[offset : offset + length]
    assert await message.read() == whole
    message.close()
    inbox.close()
