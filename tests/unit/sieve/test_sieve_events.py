"""Scripts after IMAP leave a user's mail as it is whenever anything about them is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock

from lorrainemail.addresses import parse_address
from lorrainemail.interfaces import Account, MailboxEvent
from lorrainemail.sieve.events import ENTRY, MAX_WAITING, MailboxScripts, Rule
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


@attrs.define
class Place:
    """Bob's home with one message in Notes, and what scripts sent."""

    store: MemoryStore
    scripts: Scripts
    events: MailboxScripts
    sent: list[tuple[Any, ...]]
    uid: int = 0

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
    events = MailboxScripts(scripts, store, kept, inject, maybeDeferred, "mail.bricoleur.com", clock.seconds)
    made = Place(store, scripts, events, sent)
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
