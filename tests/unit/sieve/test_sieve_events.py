"""Scripts after IMAP leave a user's mail as it is whenever anything about them is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock

from lorrainemail.addresses import Address, parse_address
from lorrainemail.interfaces import Account, MailboxEvent
from lorrainemail.sieve.events import ENTRY, LETTERS, MAX_WAITING, MailboxScripts, Rule
from lorrainemail.sieve.filter import SieveFilter
from lorrainemail.sieve.storage import Scripts
from lorrainemail.store.memory import MemoryContent, MemoryStore

BOB = Account(parse_address("bob@bricoleur.com"))
MESSAGE = b"From: a@x.test\r\nSubject: hello\r\n\r\nbody\r\n"


def now(deferred: Any) -> Any:
    """What a Deferred has already."""
    found: list[Any] = []
    deferred.addBoth(found.append)
    assert found, "it is not known yet"
    return found[0]


class Tables:
    """bricoleur.com is ours; Bob owns his address and one alias."""

    def is_local(self, domain: str) -> bool:
        return domain == "bricoleur.com"

    def owns(self, account: Account, address: Address) -> bool:
        return address.key in ("bob@bricoleur.com", "sales@bricoleur.com")


@attrs.define
class Place:
    """Bob's home with one message in Notes, and what scripts sent."""

    store: MemoryStore
    scripts: Scripts
    events: MailboxScripts
    sent: list[tuple[Any, ...]]
    sent_on: list[tuple[Any, ...]]
    uid: int = 0

    def hold(self, message: bytes) -> None:
        """Another message is the one that things happen to."""
        mailbox = now(self.store.home(BOB).open("Notes"))
        self.uid = now(mailbox.append(MemoryContent(message), [], None))
        mailbox.close()

    def script(self, text: str, name: str = "mine") -> None:
        self.scripts.put(BOB.address, name, text.encode())
        now(self.store.home(BOB).set_metadata("Notes", {ENTRY: name.encode()}))

    def happen(self, cause: Any = "APPEND", **more: Any) -> None:
        self.events.happened(MailboxEvent(BOB, BOB.address.key, cause, "Notes", (self.uid,), **more))

    def folder(self, name: str) -> dict[int, frozenset[str]]:
        mailbox = now(self.store.home(BOB).open(name))
        found = {uid: mailbox.flags(uid) for uid in mailbox.uids()}
        mailbox.close()
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    clock, sent = Clock(), []
    store = MemoryStore(clock)
    scripts = Scripts(str(tmp_path / "mail"), str(tmp_path / "shared"))
    (tmp_path / "shared").mkdir()
    (tmp_path / "mail").mkdir()

    def inject(*words: Any) -> Deferred[str]:
        sent.append(words)
        return succeed("id")

    kept = SieveFilter(clock, scripts, store, maybeDeferred, "mail.bricoleur.com")
    sent_on: list[tuple[Any, ...]] = []

    def redirect(*words: Any) -> Deferred[str]:
        sent_on.append(words)
        return succeed("id")

    events = MailboxScripts(
        scripts,
        store,
        kept,
        inject,
        redirect,
        lambda: cast(Any, Tables()),
        maybeDeferred,
        "mail.bricoleur.com",
        clock.seconds,
    )
    made = Place(store, scripts, events, sent, sent_on)
    home = store.home(BOB)
    now(home.create("Notes"))
    mailbox = now(home.open("Notes"))
    made.uid = now(mailbox.append(MemoryContent(MESSAGE), ["\\Seen"], None))
    mailbox.close()
    return made


def test_nothing_runs_where_nobody_asked_for_it(place: Place) -> None:
    assert not place.events.wants(BOB)
    place.happen()
    assert place.folder("Notes") == {place.uid: frozenset({"\\Seen"})}


def test_flags_that_the_message_has_are_known_and_changed(place: Place) -> None:
    place.script(
        'require ["imap4flags", "environment"]; '
        'if hasflag "\\\\Seen" { addflag "$Work"; removeflag "\\\\Seen"; }'
    )
    place.happen()
    assert place.folder("Notes") == {place.uid: frozenset({"$Work"})}


def test_annotations_of_folders_and_of_the_account_are_known(place: Place) -> None:
    home = place.store.home(BOB)
    now(home.set_metadata("Notes", {"/private/colour": b"red"}))
    now(home.set_metadata("", {"/private/colour": b"blue"}))
    place.script(
        'require ["imap4flags", "mboxmetadata", "servermetadata", "variables"]; set "where" "Notes"; '
        'if allof (metadata "${where}" "/private/colour" "red", servermetadata "/private/colour" "blue") '
        '{ addflag "known"; }'
    )
    place.happen()
    assert "known" in place.folder("Notes")[place.uid]


def test_a_message_that_is_filed_elsewhere_is_marked_not_lost(place: Place) -> None:
    place.script('require ["fileinto", "mailbox"]; fileinto :create "Sorted";')
    place.happen()
    assert place.folder("Notes") == {place.uid: frozenset({"\\Seen", "\\Deleted"})}
    assert len(place.folder("Sorted")) == 1


def test_a_message_that_is_filed_where_it_is_stays(place: Place) -> None:
    place.script('require "fileinto"; fileinto "Notes";')
    place.happen()
    assert place.folder("Notes") == {place.uid: frozenset({"\\Seen"})}


@pytest.mark.parametrize(
    "script",
    [
        'require "reject"; reject "no";',
        'require "vacation"; vacation "away";',
        'require "ihave"; error "broken";',
        'require "fileinto"; fileinto "Not there";',
    ],
)
def test_a_script_that_fails_leaves_the_message_alone(place: Place, script: str) -> None:
    place.script(script)
    place.happen()
    assert place.folder("Notes") == {place.uid: frozenset({"\\Seen"})}
    assert place.sent == []
    # And the next event is served.
    place.script('require "imap4flags"; addflag "next";', "other")
    place.happen()
    assert "next" in place.folder("Notes")[place.uid]


def test_a_script_that_is_missing_or_broken_changes_nothing(place: Place) -> None:
    place.script("keep;")
    Path(place.scripts.path(BOB.address, "mine")).write_bytes(b"keep")
    place.happen()
    Path(place.scripts.path(BOB.address, "mine")).unlink()
    place.happen()
    assert place.folder("Notes") == {place.uid: frozenset({"\\Seen"})}


def test_the_operators_rows_choose_by_folder_way_and_special_use(place: Place) -> None:
    place.events.rules = Rule.of({"into notes": "a", "out of *": "b", "flags Notes": "c"})
    for name in "abc":
        text = f'require "imap4flags"; addflag "{name}";'
        Path(place.scripts.shared_path(name)).write_text(text)
    place.happen("COPY")
    assert place.folder("Notes")[place.uid] == {"\\Seen", "a"}
    place.happen("COPY", source="INBOX")
    assert place.folder("Notes")[place.uid] == {"\\Seen", "a", "b"}
    place.happen("FLAG", changed={place.uid: frozenset({"x"})})
    assert place.folder("Notes")[place.uid] == {"\\Seen", "a", "b", "c"}


def test_the_events_of_one_account_are_bounded(place: Place) -> None:
    place.script("discard;")
    place.events.happened(
        MailboxEvent(BOB, BOB.address.key, "COPY", "Notes", tuple(range(1, MAX_WAITING + 2)))
    )
    assert place.folder("Notes") == {place.uid: frozenset({"\\Seen"})}
    place.happen()
    assert "\\Deleted" in place.folder("Notes")[place.uid]


@pytest.mark.parametrize(
    ("author", "goes"),
    [
        ("Ann <ann@elsewhere.test>", True),
        ("bob@bricoleur.com", True),
        ("Sales <sales@Bricoleur.com>", True),
        ("The Boss <boss@bricoleur.com>", False),
        ("ann@elsewhere.test, boss@bricoleur.com", False),
        ("<bob@bricoleur.com> <boss@bricoleur.com", False),
        ("<ann@elsewhere.test> boss@bricoleur.com", False),
        ("ann@elsewhere.test (boss@bricoleur.com", False),
    ],
)
def test_nobody_sends_in_the_name_of_another_by_a_folder_of_his(
    place: Place, author: str, goes: bool
) -> None:
    place.script('redirect "victim@elsewhere.test";')
    place.hold(f"From: {author}\r\nSubject: pay this\r\n\r\nnow\r\n".encode())
    place.happen()
    # Never by the way of our own letters, which are signed.
    assert place.sent == []
    assert [words[:2] for words in place.sent_on] == (
        [(BOB.address, [parse_address("victim@elsewhere.test")])] if goes else []
    )
    assert ("\\Deleted" in place.folder("Notes")[place.uid]) is goes


def test_scripts_send_so_much_in_an_hour(place: Place) -> None:
    place.script('redirect "victim@elsewhere.test";')
    for _ in range(LETTERS + 5):
        place.happen()
    assert len(place.sent_on) == LETTERS


def test_what_stays_with_us_is_sent_on_whatever_it_is(place: Place) -> None:
    # So a filter learns what junk is, also from a whole folder of it.
    place.script('redirect "spam@bricoleur.com";')
    place.hold(b"From: The Boss <boss@bricoleur.com>\r\nSubject: pay this\r\n\r\nnow\r\n")
    for _ in range(LETTERS + 5):
        place.happen()
    assert len(place.sent_on) == LETTERS + 5
