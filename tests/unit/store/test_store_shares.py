"""Folders shared between accounts: what rights allow, and what they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted

from lorrainemail.addresses import parse_address
from lorrainemail.errors import PermanentError
from lorrainemail.interfaces import Account, IMailHome
from lorrainemail.ops.content import Content
from lorrainemail.store.mailstore import MailStore
from lorrainemail.store.rights import changed, parse_rights, rights_of, shown
from lorrainemail.store.shares import Registry, Shares

MESSAGE = Content(b"Subject: x\r\n\r\nhello\r\n")
TOM = Account(parse_address("tom@bricoleur.test"))


@pytest.fixture
def homes(disk_store: MailStore, bob: Account) -> tuple[IMailHome, IMailHome]:
    """Bob's and Tom's."""
    accounts = {account.address.key: account for account in (bob, TOM)}

    async def find(key: str) -> Account | None:
        return accounts.get(key)

    shares = Shares(disk_store.home, find, disk_store.registry)
    return shares.home(bob), shares.home(TOM)


async def refused(code: str, work: Any) -> None:
    with pytest.raises(PermanentError) as caught:
        await work
    assert caught.value.detail.startswith(code)


@pytest_twisted.ensureDeferred
async def test_what_is_shared_is_seen_and_nothing_else(homes: Any) -> None:
    bobs, toms = homes
    await bobs.create("Work")
    work = await bobs.open("Work")
    await work.append(MESSAGE, ["\\Seen"], 1000)
    assert not any(folder.name.startswith("user/") for folder in await toms.folders())
    await refused("NONEXISTENT", toms.open("user/bob@bricoleur.test/Work"))
    await bobs.set_acl("Work", "tom@bricoleur.test", "lr")
    names = {folder.name: folder.selectable for folder in await toms.folders()}
    assert names["user/bob@bricoleur.test/Work"] and not names["user"]
    assert "user/bob@bricoleur.test/INBOX" not in names
    shared = await toms.open("user/bob@bricoleur.test/Work")
    assert list(shared.uids()) == [1] and shared.rights == "lr"
    assert await toms.rights("user/bob@bricoleur.test/Work") == "lr"
    await refused("NOPERM", shared.change_flags([1], "add", ["\\Flagged"]))
    await refused("NOPERM", shared.expunge([1]))
    await refused("NOPERM", shared.append(MESSAGE, [], None))
    await refused("NOPERM", toms.delete("user/bob@bricoleur.test/Work"))
    await refused("NOPERM", toms.create("user/bob@bricoleur.test/Work/Below"))
    await refused("NOPERM", toms.acl("user/bob@bricoleur.test/Work"))
    await refused("NONEXISTENT", toms.open("user/bob@bricoleur.test/Drafts"))
    await refused("NONEXISTENT", toms.open("user/nobody@bricoleur.test/INBOX"))
    # what he may read he may copy home
    mine = await toms.open("INBOX")
    assert await shared.copy_to([1], mine) == [(1, 1)]
    (facts,) = await mine.facts([1])
    assert facts.internal_date == 1000 and facts.flags == {"\\Seen"}
    await refused("NOPERM", mine.copy_to([1], shared))
    await refused("NOPERM", shared.move_to([1], mine))
    for mailbox in (work, shared, mine):
        mailbox.close()


@pytest_twisted.ensureDeferred
async def test_each_flag_needs_its_right(homes: Any) -> None:
    bobs, toms = homes
    inbox = await bobs.open("INBOX")
    await inbox.append(MESSAGE, ["\\Flagged", "\\Deleted"], None)
    await bobs.set_acl("INBOX", "anyone", "lrs")
    shared = await toms.open("user/bob@bricoleur.test/INBOX")
    await shared.change_flags([1], "set", ["\\Seen", "\\Answered"])
    assert inbox.flags(1) == {"\\Seen", "\\Flagged", "\\Deleted"}
    await shared.change_flags([1], "remove", ["\\Seen", "\\Flagged"])
    assert inbox.flags(1) == {"\\Flagged", "\\Deleted"}
    await refused("NOPERM", shared.change_flags([1], "remove", ["\\Deleted"]))
    shared.close()
    await bobs.set_acl("INBOX", "anyone", "lrswite")
    shared = await toms.open("user/bob@bricoleur.test/INBOX")
    assert await shared.append(MESSAGE, ["\\Seen", "$work"], None) == 2
    assert inbox.flags(2) == {"\\Seen", "$work"}
    await shared.change_flags([1], "set", ["\\Seen"])
    assert inbox.flags(1) == {"\\Seen"}
    mine = await toms.open("INBOX")
    assert await shared.move_to([1], mine) == [(1, 1)]
    assert list(inbox.uids()) == [2] and list(mine.uids()) == [1]
    assert await mine.move_to([1], shared) == [(1, 3)]
    for mailbox in (inbox, shared, mine):
        mailbox.close()


@pytest_twisted.ensureDeferred
async def test_rights_that_are_taken_away_are_gone_for_who_has_the_folder_open(homes: Any) -> None:
    bobs, toms = homes
    inbox = await bobs.open("INBOX")
    await inbox.append(MESSAGE, [], None)
    await bobs.set_acl("INBOX", "tom@bricoleur.test", "lrswite")
    shared, mine = await toms.open("user/bob@bricoleur.test/inbox"), await toms.open("INBOX")
    await bobs.set_acl("inbox", "tom@bricoleur.test", "lr")
    await refused("NOPERM", shared.change_flags([1], "add", ["\\Flagged"]))
    await refused("NOPERM", shared.append(MESSAGE, [], None))
    assert len(await shared.facts([1])) == 1
    await bobs.set_acl("INBOX", "tom@bricoleur.test", "")
    reads = [
        lambda: shared.message(1),
        lambda: shared.facts([1], True),
        lambda: shared.columns([1], ("size",)),
        lambda: shared.candidates("envelope", [b"x"]),
        lambda: shared.text_candidates(["hel"]),
        lambda: shared.examine([1], len),
        lambda: shared.copy_to([1], mine),
        lambda: shared.move_to([1], mine),
    ]
    for read in reads:
        await refused("NOPERM", read())
    await bobs.set_acl("INBOX", "anyone", "lr")
    assert len(await shared.facts([1])) == 1
    for mailbox in (inbox, shared, mine):
        mailbox.close()


@pytest_twisted.ensureDeferred
async def test_names_that_lead_to_no_folder_are_not_there(homes: Any) -> None:
    bobs, toms = homes
    await bobs.set_acl("INBOX", "anyone", "lrswipkxtea")
    for name in ("user/bob@bricoleur.test", "user/bob@bricoleur.test/", "user/@", "user/@/x"):
        works = [
            toms.open(name),
            toms.status(name),
            toms.create(name),
            toms.delete(name),
            toms.rename(name, "user/bob@bricoleur.test/INBOX/x"),
            toms.rename("user/bob@bricoleur.test/INBOX", name),
            toms.acl(name),
            toms.set_acl(name, "anyone", "lr"),
            toms.rights(name),
            toms.metadata(name),
            toms.set_metadata(name, {"/shared/x": b"1"}),
        ]
        for work in works:
            await refused("NONEXISTENT", work)


@pytest_twisted.ensureDeferred
async def test_rights_to_folders_themselves(homes: Any) -> None:
    bobs, toms = homes
    await bobs.create("Work")
    await bobs.set_acl("Work", "tom@bricoleur.test", "lrkxa")
    await toms.create("user/bob@bricoleur.test/Work/Below")
    assert await bobs.acl("Work/Below") == {"tom@bricoleur.test": "lrkxa"}
    await toms.rename("user/bob@bricoleur.test/Work/Below", "user/bob@bricoleur.test/Work/Other")
    await refused("CANNOT", toms.rename("user/bob@bricoleur.test/Work/Other", "Mine"))
    await toms.set_acl("user/bob@bricoleur.test/Work", "anyone", "l")
    assert await bobs.acl("Work") == {"tom@bricoleur.test": "lrkxa", "anyone": "l"}
    await toms.delete("user/bob@bricoleur.test/Work/Other")
    await bobs.set_metadata("Work", {"/private/x": b"secret", "/shared/x": b"open"})
    assert await toms.metadata("user/bob@bricoleur.test/Work") == {"/shared/x": b"open"}
    await refused("NOPERM", toms.set_metadata("user/bob@bricoleur.test/Work", {"/shared/x": None}))
    await toms.subscribe("user/bob@bricoleur.test/Work", True)
    listed = {folder.name: folder for folder in await toms.folders()}
    assert listed["user/bob@bricoleur.test/Work"].subscribed
    assert listed["user/bob@bricoleur.test/Work"].selectable
    await bobs.set_acl("Work", "tom@bricoleur.test", "")
    await bobs.set_acl("Work", "anyone", "")
    listed = {folder.name: folder for folder in await toms.folders()}
    assert "user/bob@bricoleur.test/Work" not in listed


def test_who_shares_is_remembered_and_a_damaged_file_is_no_disaster(tmp_path: Path) -> None:
    path = tmp_path / "shares"
    registry = Registry(str(path))
    assert registry.owners("tom") == []
    registry.note("bob", {"tom", "-eve"})
    registry.note("eve", {"anyone"})
    assert Registry(str(path)).owners("tom") == ["bob", "eve"]
    assert Registry(str(path)).owners("eve") == []
    registry.note("bob", set())
    assert Registry(str(path)).owners("tom") == ["eve"]
    registry.note("eve", {*(f"{number}@bricoleur.test" for number in range(5000)), "anyone"})
    assert Registry(str(path)).owners("tom") == ["eve"] and path.stat().st_size < 20_000
    path.write_bytes(b"{")
    assert Registry(str(path)).owners("tom") == []


def test_letters() -> None:
    assert parse_rights("rlcd") == "lrkxte" and parse_rights("q") is None
    assert shown("lrkx") == "lrkxcd" and shown("lr") == "lr"
    assert changed("lr", "+sw") == "lrsw" and changed("lrs", "-s") == "lr" and changed("lrs", "a") == "a"
    assert changed("", "+z") is None
    assert rights_of({"tom": "lrsw", "anyone": "p", "-tom": "w"}, "tom") == "lrsp"


def test_the_fixture_is_what_it_says(bob: Account) -> None:
    assert attrs.evolve(bob).address.key == "bob@bricoleur.test"
