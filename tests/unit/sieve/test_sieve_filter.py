"""The accounts' scripts as delivery asks them: cached, bounded, losing no message, answering nobody twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import task
from twisted.internet.defer import Deferred, succeed

from lorrainemail.addresses import Address, parse_address
from lorrainemail.envelope import Envelope, Recipient, Session
from lorrainemail.interfaces import Account, Action, Filing, Filtered, LocalMailbox, Transaction, Verdict
from lorrainemail.ops.content import Content, ContentWriter
from lorrainemail.sieve import filter as filtering
from lorrainemail.sieve.filter import SieveFilter, reply_of
from lorrainemail.sieve.storage import MAX_REMEMBERED, MAX_SCRIPTS, Scripts, StorageError
from lorrainemail.store.memory import MemoryStore

BOB, EVE = parse_address("bob@bricoleur.com"), parse_address("eve@bricoleur.com")
MESSAGE = b"From: carole@elorac.fr\r\nTo: bob@bricoleur.com\r\nSubject: hello\r\n\r\nbody\r\n"
PREFIX = b"Received: by us\r\n"


class World:
    def __init__(self, directory: Path) -> None:
        self.clock = task.Clock()
        self.clock.advance(1_795_334_400)
        self.store = MemoryStore(self.clock)
        self.scripts = Scripts(str(directory / "mail"), str(directory / "shared"))
        (directory / "mail").mkdir()
        self.in_threads: list[str] = []
        self.filter = SieveFilter(self.clock, self.scripts, self.store, self.in_thread, "mx.example.test")
        self.sent: list[tuple[Address | None, list[str], bytes]] = []

    def in_thread(self, function: Callable[..., Any], *words: Any) -> Deferred[Any]:
        self.in_threads.append(function.__name__)
        return succeed(function(*words))

    def use(self, script: str, address: Address = BOB) -> None:
        self.scripts.put(address, "mine", script.encode())
        self.scripts.activate(address, "mine")

    def plan(self, message: Any = MESSAGE, sender: str = "carole@elorac.fr", **more: Any) -> Any:
        content = Content(message) if isinstance(message, bytes) else message
        envelope = Envelope(
            "m1", parse_address(sender) if sender else None, (Recipient(BOB),), hops=more.pop("hops", 0)
        )
        transaction = Transaction(Session("s1", "smtp"), envelope, (), None, content, **more)  # type: ignore[arg-type]
        planned = self.filter.plan(LocalMailbox(Account(BOB), "", BOB), transaction, PREFIX, content)
        if not isinstance(planned, Deferred):
            return planned
        found: list[Any] = []
        planned.addBoth(found.append)
        assert isinstance(found[0], Filtered | None), found
        return found[0]

    def settle(self, planned: Filtered) -> None:
        def inject(sender: Any, recipients: Any, content: Any, hops: int, cause: str) -> Deferred[str]:
            self.sent.append((sender, [str(r) for r in recipients], content.in_memory()))
            return succeed("m2")

        assert planned.settle is not None
        found: list[Any] = []
        planned.settle(inject).addBoth(found.append)
        assert found == [None]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_account_without_a_script_is_not_filtered_and_nothing_is_read(world: World) -> None:
    assert world.plan() is None
    assert world.in_threads == []


def test_a_script_is_compiled_once_and_again_when_its_file_or_the_choice_changes(world: World) -> None:
    world.use('require "fileinto"; fileinto "one";')
    for _ in range(3):
        assert world.plan().filings == (Filing("one"),)
    assert world.in_threads == ["load"]
    world.scripts.put(BOB, "mine", b'require "fileinto"; fileinto "two!";')
    assert world.plan().filings == (Filing("two!"),)
    world.scripts.put(BOB, "other", b"discard;")
    world.scripts.activate(BOB, "other")
    assert world.plan() == Filtered()
    world.scripts.activate(BOB, "")
    assert world.plan() is None
    assert world.in_threads == ["load"] * 3


def test_the_operators_scripts_run_before_and_after_each_accounts_own(world: World, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    before, after = tmp_path / "shared" / "before.sieve", tmp_path / "shared" / "after.sieve"
    before.write_text(
        'require ["fileinto", "imap4flags"]; if header "subject" "junk" { fileinto "Junk"; } '
        'else { addflag "seen-by-us"; keep; }'
    )
    assert world.plan().filings == (Filing(None, ("seen-by-us",)),), "without a script of one's own"
    world.use('require "fileinto"; if header "subject" "hello" { fileinto "mine"; }')
    assert world.plan().filings == (Filing("mine", ("seen-by-us",)),)
    assert world.plan(MESSAGE.replace(b"hello", b"junk")).filings == (Filing("Junk"),)
    after.write_text('require "fileinto"; fileinto "rest";')
    assert world.plan().filings == (Filing("mine", ("seen-by-us",)),)
    other = MESSAGE.replace(b"hello", b"other")
    assert world.plan(other).filings == (Filing("rest", ("seen-by-us",)),)
    after.write_text("broken")
    assert world.plan(other).filings == (Filing(None, ("seen-by-us",)),)
    before.write_text("discard;")
    assert world.plan(other) == Filtered()
    before.unlink()
    after.unlink()
    assert world.plan(other).filings == (Filing(None),)


def test_a_change_of_an_included_script_is_seen(world: World) -> None:
    world.scripts.put(BOB, "part", b'require "fileinto"; fileinto "a";')
    world.use('require "include"; include "part";')
    assert world.plan().filings == (Filing("a"),)
    world.scripts.put(BOB, "part", b'require "fileinto"; fileinto "bb";')
    assert world.plan().filings == (Filing("bb"),)


def test_compiled_scripts_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtering, "MAX_PROGRAMS", 2)
    world.use("keep;")
    world.plan()
    for number in range(5):
        address = parse_address(f"u{number}@bricoleur.com")
        world.use("keep;", address)
        found = world.filter.plan(
            LocalMailbox(Account(address), "", address), _transaction(), PREFIX, Content(MESSAGE)
        )
        assert isinstance(found, Deferred)
    assert len(world.filter._programs) == 2


def _transaction() -> Transaction:
    return Transaction(Session("s1", "smtp"), Envelope("m1", None, ()), (), None, Content(MESSAGE))  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["broken", "gone", "fails", "marker"])
def test_whatever_is_wrong_with_a_script_the_message_is_kept(world: World, how: str) -> None:
    world.use('require "ihave"; error "oh no";')
    home = world.scripts.directory(BOB)
    if how == "broken":
        Path(f"{home}/mine.sieve").write_text("keep")
    elif how == "gone":
        os.unlink(f"{home}/mine.sieve")
    elif how == "marker":
        os.unlink(f"{home}/active")
        os.symlink(f"{home}/mine.sieve", f"{home}/active")
    planned = world.plan()
    assert planned.filings == (Filing(),) and planned.error and planned.reply is None


def test_the_owner_of_a_broken_script_is_told_once_a_day(world: World) -> None:
    world.use('require "ihave"; error "oh no";')

    def notices() -> int:
        return len(world.store.memory_home(Account(BOB)).folder("INBOX").uids())

    for _ in range(3):
        world.settle(world.plan())
    assert notices() == 1
    world.clock.advance(86401)
    world.settle(world.plan())
    assert notices() == 2
    world.use('require "ihave"; error "another";')
    world.settle(world.plan())
    assert notices() == 3


def test_a_script_that_is_a_link_to_somewhere_else_is_not_followed(world: World, tmp_path: Path) -> None:
    world.use("keep;")
    secret = tmp_path / "secret"
    secret.write_text("discard;")
    path = Path(world.scripts.path(BOB, "mine"))
    path.unlink()
    path.symlink_to(secret)
    planned = world.plan()
    assert planned.error and planned.filings == (Filing(),)


def test_large_messages_and_slow_scripts_are_filtered_in_a_thread(world: World, tmp_path: Path) -> None:
    world.use('require "body"; if body :contains "needle" { discard; }')
    writer = ContentWriter(str(tmp_path), memory=1000)
    writer.write(MESSAGE + b"x" * 5000 + b" needle\r\n")
    assert world.plan(writer.finish()) == Filtered()
    assert world.in_threads == ["load", "run_program"]
    world.use(
        "".join(f'if header :matches "subject" "*a?b*{n}" {{ stop; }}\n' for n in range(4000)) + "discard;"
    )
    world.in_threads.clear()
    assert world.plan() == Filtered()
    assert world.in_threads == ["load", "run_program"], "a quick try first, then the whole of it elsewhere"


def test_the_script_sees_our_own_fields_and_an_edited_message_has_them_once(world: World) -> None:
    world.use(
        'require "editheader"; if header "received" "by us" { addheader "X-A" "b"; } deleteheader "subject";'
    )
    ((filing,)) = world.plan().filings
    data = b"".join(filing.content.chunks())
    assert data == b"X-A: b\r\n" + PREFIX + MESSAGE.replace(b"Subject: hello\r\n", b"")
    assert filing.content.size == len(data)


def test_flags_and_folders_arrive(world: World) -> None:
    world.use(
        'require ["fileinto","imap4flags","mailbox"]; addflag "\\\\Seen"; fileinto :create "a/b"; keep;'
    )
    assert world.plan().filings == (Filing("a/b", ("\\Seen",), True), Filing(None, ("\\Seen",)))


def test_a_redirection_keeps_the_sender_and_is_marked_against_loops(world: World) -> None:
    world.use('redirect "x@y.example";')
    planned = world.plan()
    (sent,) = planned.redirections
    assert planned.filings == () and str(sent.sender) == "carole@elorac.fr"
    data = b"".join(sent.content.chunks())
    assert data == b"Delivered-To: bob@bricoleur.com\r\n" + PREFIX + MESSAGE
    again = world.plan(data)
    assert again.redirections == () and again.filings == (Filing(),), "it is back: kept"
    assert world.plan(hops=9).filings == (Filing(),)


def test_a_rejection_is_a_reply_that_cannot_break_the_protocol(world: World) -> None:
    world.use('require "reject"; reject "no\r\n250 2.0.0 yes\u00e9\r\n' + "x" * 900 + '";')
    reply = world.plan().reply
    assert reply.wire().startswith(b"550-5.7.1 no\r\n550-5.7.1 250 2.0.0 yes?\r\n550 5.7.1 xxx")
    assert max(map(len, reply.wire().split(b"\r\n"))) < 512
    assert reply_of("", False).text and len(reply_of("a\n" * 99, False).text.split("\n")) == 10
    assert reply_of("é", True).text == "é"


VACATION = 'require "vacation"; vacation :days 2 "away";'


def test_a_sender_is_answered_once_in_the_time_also_after_a_restart(world: World) -> None:
    world.use(VACATION)
    first, second = world.plan(), world.plan()
    assert first.filings == second.filings == (Filing(),)
    world.settle(first)
    world.settle(second)
    assert len(world.sent) == 1 and world.sent[0][:2] == (None, ["carole@elorac.fr"])
    world.filter = SieveFilter(world.clock, world.scripts, world.store, world.in_thread, "mx.example.test")
    world.settle(world.plan())
    assert len(world.sent) == 1
    world.settle(world.plan(sender="dave@elorac.fr"))
    assert len(world.sent) == 2
    world.clock.advance(2 * 86400 + 1)
    world.settle(world.plan())
    assert len(world.sent) == 3


def test_nobody_is_answered_whose_message_was_not_kept(world: World) -> None:
    world.use(VACATION)
    world.plan()  # delivery failed: settle was never called
    world.settle(world.plan())
    assert len(world.sent) == 1


def test_a_duplicate_is_known_once_the_first_was_kept(world: World) -> None:
    world.use('require "duplicate"; if duplicate :header "subject" { discard; }')
    first = world.plan()
    assert first.filings == (Filing(),)
    assert world.plan().filings == (Filing(),), "the first was not kept: this is no duplicate"
    world.settle(first)
    assert world.plan().filings == ()


def test_a_copy_of_a_reply_is_filed(world: World) -> None:
    world.use('require ["vacation", "fcc", "mailbox"]; vacation :fcc "Sent" :create "away";')
    world.settle(world.plan())
    folder = world.store.memory_home(Account(BOB)).folder("Sent")
    assert len(folder.uids()) == 1


def test_what_policy_thought_is_the_spam_test(world: World) -> None:
    world.use('require ["spamtest", "fileinto"]; if spamtest :is "10" { fileinto "s"; }')
    assert world.plan().filings == (Filing(None),)
    assert world.plan(verdicts=(Verdict(Action.JUNK, "dnsbl"),)).filings == (Filing("s"),)


def test_folders_are_looked_up_for_scripts_that_ask(world: World) -> None:
    world.use('require ["mailbox", "fileinto"]; if mailboxexists "there" { fileinto "there"; }')
    assert world.plan().filings == (Filing(None),)
    world.store.memory_home(Account(BOB)).create("there")
    assert world.plan().filings == (Filing("there"),)


# -- storage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "a/b", ".", "ACTIVE", "active", "é ü", "x" * 60, "%41"])
def test_any_name_of_a_script_stays_in_its_directory_and_comes_back(world: World, name: str) -> None:
    world.scripts.put(BOB, name, b"keep;")
    world.scripts.activate(BOB, name)
    assert [(s.name, s.size, s.active) for s in world.scripts.list(BOB)] == [(name, 5, True)]
    assert sorted(os.listdir(world.scripts.root)) == ["bricoleur.com"]
    assert len(os.listdir(world.scripts.directory(BOB))) == 2
    assert world.scripts.active(BOB) == name and world.scripts.read(BOB, name) == b"keep;"


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 129, "é" * 129, "a\x00b"])
def test_impossible_names_are_refused(world: World, name: str) -> None:
    with pytest.raises(StorageError):
        world.scripts.put(BOB, name, b"keep;")


def test_the_active_script_cannot_be_removed_and_a_missing_one_not_activated(world: World) -> None:
    world.use("keep;")
    with pytest.raises(StorageError):
        world.scripts.delete(BOB, "mine")
    with pytest.raises(StorageError):
        world.scripts.activate(BOB, "none")
    world.scripts.activate(BOB, "")
    world.scripts.delete(BOB, "mine")
    assert world.scripts.list(BOB) == []


def test_a_renamed_script_stays_in_use(world: World) -> None:
    world.use("keep;")
    world.scripts.put(BOB, "other", b"stop;")
    with pytest.raises(StorageError):
        world.scripts.rename(BOB, "mine", "other")
    world.scripts.rename(BOB, "mine", "yours")
    assert [(s.name, s.active) for s in world.scripts.list(BOB)] == [("other", False), ("yours", True)]


def test_scripts_and_memory_are_bounded_and_damage_in_it_is_forgotten(world: World) -> None:
    for number in range(MAX_SCRIPTS):
        world.scripts.put(BOB, str(number), b"")
    with pytest.raises(StorageError):
        world.scripts.put(BOB, "one more", b"")
    world.scripts.put(BOB, "0", b"keep;")
    keys = {f"{number:032x}": 1000.0 + number for number in range(MAX_REMEMBERED + 100)}
    world.scripts.remember(EVE, keys, 1000.0)
    kept = world.scripts.remembered(EVE)
    assert len(kept) == MAX_REMEMBERED and max(kept.values()) == max(keys.values())
    Path(f"{world.scripts.directory(EVE)}/remembered").write_bytes(b'{"a": [')
    assert world.scripts.remembered(EVE) == {}


def test_notifications_of_one_account_are_so_many_in_an_hour(world: World) -> None:
    # Strangers make them happen: nobody writes to the world by his script as he may not by submission.
    world.use('require "enotify"; notify "mailto:x@y.test,z@y.test?body=Buy";')
    for _ in range(filtering.LETTERS):
        world.settle(world.plan())
    assert len(world.sent) == filtering.LETTERS // 2
    world.clock.advance(3600)
    world.settle(world.plan())
    assert len(world.sent) == filtering.LETTERS // 2 + 1
