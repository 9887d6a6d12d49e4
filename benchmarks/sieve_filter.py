"""What an account's Sieve script costs at delivery, in CPU of the server.

Usage: python benchmarks/sieve_filter.py [MESSAGES]. Measures the filter alone (look, header, rules, effects),
for an account with a usual script of seven rules and for one without. The goal: at most 0.2 ms a message.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred, succeed

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Envelope, Recipient, Session
from lorrainemail.interfaces import Account, LocalMailbox, Transaction
from lorrainemail.ops.content import Content
from lorrainemail.sieve.filter import SieveFilter
from lorrainemail.sieve.storage import Scripts
from lorrainemail.store.memory import MemoryStore

SCRIPT = b"""require ["fileinto", "imap4flags", "variables", "subaddress", "envelope", "mailbox"];
if header :contains "X-Spam-Flag" "YES" { fileinto "Junk"; stop; }
if header :matches "List-Id" "*<*.*>*" { set :lower "l" "${2}"; fileinto :create "lists/${l}"; stop; }
if address :domain "from" ["work.example", "corp.example"] { addflag "work"; fileinto "Work"; stop; }
if anyof (header :contains "subject" ["invoice", "facture"], address :localpart "from" "billing") {
  fileinto "Bills"; stop;
}
if envelope :detail "to" "shop" { fileinto "Shop"; stop; }
if size :over 5M { fileinto "Big"; stop; }
"""
HEADER = b"".join(
    b"Received: from a%d.example (b [192.0.2.%d]) by c\r\n\tid 123; Sun, 22 Nov 2026 08:00:00 +0100\r\n"
    % (n, n)
    for n in range(5)
)
MESSAGE = (
    HEADER
    + b"From: Carole <carole@elorac.fr>\r\nTo: Bob <bob@bricoleur.com>\r\nSubject: hello there\r\n"
    + b"Date: Sun, 22 Nov 2026 08:00:00 +0100\r\nMessage-ID: <abc@elorac.fr>\r\nMIME-Version: 1.0\r\n"
    + b"DKIM-Signature: v=1; a=rsa-sha256; b="
    + b"A" * 300
    + b"\r\n\r\n"
    + (b"x" * 70 + b"\r\n") * 45
)


def at_once(function: Callable[..., Any], *words: Any) -> Deferred[Any]:
    return succeed(function(*words))


def main(count: int) -> None:
    clock = task.Clock()
    with tempfile.TemporaryDirectory() as directory:
        scripts = Scripts(directory, f"{directory}/shared")
        bob, eve = parse_address("bob@bricoleur.com"), parse_address("eve@bricoleur.com")
        scripts.put(bob, "mine", SCRIPT)
        scripts.activate(bob, "mine")
        filter = SieveFilter(clock, scripts, MemoryStore(clock), at_once, "mx.example")
        content = Content(MESSAGE)
        tables: Any = None
        envelope = Envelope("m1", parse_address("carole@elorac.fr"), (Recipient(bob),))
        transaction = Transaction(Session("s1", "smtp"), envelope, (), tables, content)
        for words, address in (("with a script", bob), ("without one", eve)):
            mailbox = LocalMailbox(Account(address), "", address)
            filter.plan(mailbox, transaction, b"", content)
            began = time.process_time()
            for _ in range(count):
                filter.plan(mailbox, transaction, b"", content)
            print(f"{words}: {(time.process_time() - began) / count * 1000:.4f} ms of CPU a message")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
