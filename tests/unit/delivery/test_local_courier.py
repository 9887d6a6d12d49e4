"""The local courier: mailboxes that failed at the final dot get their copy from the queue."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import task

from lorrainemail.addresses import parse_address
from lorrainemail.delivery.local import LocalCourier
from lorrainemail.envelope import Envelope, Recipient
from lorrainemail.errors import PermanentError, Reply, TemporaryError
from lorrainemail.interfaces import Account, Filing, Outcome, QueueItem, QueueRecipient
from lorrainemail.ops.content import Content
from lorrainemail.sieve.filing import filing_words
from lorrainemail.store.memory import MemoryStore

BOB = Account(parse_address("bob@bricoleur.com"))
MESSAGE = b"Received: by us\r\nStatus: RO\r\nSubject: x\r\n\r\nbody\r\n"


class Tables:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def current(self) -> Tables:
        return self

    def account(self, address: object) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def deliver(store: MemoryStore, account: Any, **more: Any) -> Outcome:
    recipient = QueueRecipient("local", Recipient(BOB.address), **more)
    item = QueueItem(
        Envelope("m1", parse_address("carole@elorac.fr"), (recipient.recipient,)),
        (recipient,),
        0.0,
        len(MESSAGE),
    )
    found: list[Any] = []
    courier = LocalCourier(store, Tables(account))  # type: ignore[arg-type]
    courier.deliver(item, [recipient], Content(MESSAGE)).addBoth(found.append)
    ((outcome,),) = found
    assert isinstance(outcome, Outcome)
    return outcome


def test_mailbox_gets_the_message_with_its_own_fields_on_top() -> None:
    store = MemoryStore(task.Clock())
    assert deliver(store, BOB).kind == "delivered"
    box = store.memory_home(BOB).target("")
    (uid,) = box.uids()
    found: list[bytes] = []
    box.message(uid).addCallback(lambda message: message.read()).addCallback(found.append)
    assert found == [
        b"Return-Path: <carole@elorac.fr>\r\nDelivered-To: bob@bricoleur.com\r\n"
        b"Received: by us\r\nSubject: x\r\n\r\nbody\r\n"
    ]


@pytest.mark.parametrize("filing", [Filing(None, ("\\Seen", "$Work"), True), Filing(None, ("$Work",))])
def test_flags_and_the_folder_that_a_script_wanted_are_not_forgotten_by_the_queue(filing: Filing) -> None:
    store = MemoryStore(task.Clock())
    assert deliver(store, BOB, folder="Projects", argument=filing_words(filing)).kind == "delivered"
    folders: list[Any] = []
    store.home(BOB).folders().addCallback(folders.extend)
    assert ("Projects" in [folder.name for folder in folders]) is filing.create
    box = store.memory_home(BOB).folder("Projects" if filing.create else "INBOX")
    (uid,) = box.uids()
    assert box.flags(uid) == frozenset(filing.flags)


def test_a_plain_filing_is_a_plain_delivery() -> None:
    assert filing_words(None) == filing_words(Filing("Projects")) == ""


@pytest.mark.parametrize(
    ("account", "broken", "kind", "ours"),
    [
        (None, None, "failed", False),
        (TemporaryError(Reply(451, "4.3.0", "tables down")), None, "deferred", True),
        (BOB, TemporaryError(Reply(451, "4.3.0", "disk")), "deferred", True),
        (BOB, PermanentError(Reply(552, "5.2.2", "full")), "failed", False),
        (RuntimeError("secret"), None, "deferred", True),
    ],
)
def test_every_failure_becomes_an_outcome(account: Any, broken: Any, kind: str, ours: bool) -> None:
    store = MemoryStore(task.Clock())
    store.broken = broken
    outcome = deliver(store, account)
    assert (outcome.kind, outcome.ours) == (kind, ours)
    assert "secret" not in str(outcome.reply)
