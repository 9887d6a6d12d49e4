"""Debian's opendmarc as an oracle: the same DMARC verdict on every message of a corpus.

It is asked as a milter and told by Authentication-Results what SPF and DKIM found, as Postfix with opendkim
would tell it. Records come from a file (``TestDNSData``); it asks no name server.
"""

from __future__ import annotations

import itertools
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import Clock, deferLater

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Envelope, Recipient, Session
from lorrainemail.filters.asking import Means, Question
from lorrainemail.filters.milter import ask
from lorrainemail.filters.stream import FilterError, connect
from lorrainemail.mailauth.dkim import DkimResult
from lorrainemail.mailauth.dmarc import Dmarc
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.memory import MemoryResolver
from lorrainemail.mailauth.spf import SpfResult
from lorrainemail.ops.content import Content

pytestmark = pytest.mark.interop

RECORDS = {
    "elorac.fr": "v=DMARC1; p=reject",
    "strict.fr": "v=DMARC1; p=quarantine; adkim=s; aspf=s",
    "mixed.fr": "v=DMARC1;p=none;adkim=s;aspf=r; rua=mailto:dmarc@mixed.fr",
    "parts.fr": "v=DMARC1; p=none; sp=reject; fo=1:d:s",
    "own.parts.fr": "v=DMARC1; p=quarantine",
    "broken.fr": "v=DMARC2; p=reject",
    "shouting.fr": "V=DMARC1 ;  P=reject ; RUA=mailto:a@shouting.fr",
    "island.nowhere.fr": "v=DMARC1; p=reject",
}
AUTHORS = (
    "elorac.fr", "news.elorac.fr", "a.b.elorac.fr", "strict.fr", "news.strict.fr", "mixed.fr",
    "news.mixed.fr", "parts.fr", "other.parts.fr", "own.parts.fr", "below.own.parts.fr", "broken.fr",
    "shouting.fr", "nothing.fr", "island.nowhere.fr",
)  # fmt: skip
MESSAGES = 1200


@attrs.frozen(slots=True)
class Case:
    author: str
    spf: tuple[str, str]
    dkim: tuple[tuple[str, str], ...]

    def message(self, number: int) -> bytes:
        told = "".join(f";\r\n\tdkim={word} header.d={domain}" for word, domain in self.dkim)
        word, domain = self.spf
        return (
            f"Authentication-Results: mx.example; spf={word} smtp.mailfrom={domain}{told}\r\n"
            f"From: Carole <carole@{self.author}>\r\nTo: bob@bricoleur.com\r\nSubject: The shelf\r\n"
            f"Date: Wed, 29 Jul 2026 08:00:00 +0000\r\nMessage-ID: <{number}@elorac.fr>\r\n\r\nIt holds.\r\n"
        ).encode()


def cases() -> list[Case]:
    """Every pair of author and authenticated domain, then anything at all."""
    others = (*AUTHORS, "elorac.org", "notelorac.fr", "forger.example")
    found = [
        case
        for author, other in itertools.product(AUTHORS, others)
        for case in (
            Case(author, ("pass", other), ()),
            Case(author, ("none", "forger.example"), (("pass", other),)),
            Case(author, ("fail", other), (("fail", other),)),
        )
    ]
    pick = random.Random(17)
    words = ("pass", "pass", "fail", "none", "neutral", "softfail")
    while len(found) < MESSAGES:
        dkim = tuple(
            (pick.choice(("pass", "fail", "neutral")), pick.choice(others)) for _ in range(pick.randint(0, 3))
        )
        found.append(Case(pick.choice(AUTHORS), (pick.choice(words), pick.choice(others)), dkim))
    return found


@pytest_twisted.ensureDeferred
async def test_opendmarc_gives_the_same_verdict_on_a_corpus(tool: Any, daemon: Any, tmp_path: Path) -> None:
    program = tool("opendmarc")
    sock = tmp_path / "dmarc.sock"
    (tmp_path / "records").write_text("".join(f"_dmarc.{name} {text}\n" for name, text in RECORDS.items()))
    (tmp_path / "nobody").write_text("")
    (tmp_path / "dmarc.conf").write_text(
        f"Socket local:{sock}\nBackground false\nUMask 000\nAuthservID oracle.example\n"
        f"TrustedAuthservIDs mx.example\nTestDNSData {tmp_path}/records\nIgnoreHosts {tmp_path}/nobody\n"
        "PublicSuffixList /usr/share/publicsuffix/public_suffix_list.dat\nRejectFailures false\n"
        "SPFSelfValidate false\nSyslog false\n"
    )
    daemon([program, "-f", "-c", str(tmp_path / "dmarc.conf")])
    await _listening(f"unix:{sock}")
    dns = MemoryResolver({f"_dmarc.{name}": [("TXT", text)] for name, text in RECORDS.items()})
    differences, counts = [], {"pass": 0, "fail": 0, "none": 0}
    seen: set[str] = set()
    for number, case in enumerate(cases()):
        message = case.message(number)
        ours, theirs = await _ours(dns, case, message), await _theirs(f"unix:{sock}", case, message)
        counts[ours.partition(" ")[0]] += 1
        explained = explanation(case, ours, theirs)
        seen.add(explained)
        if ours != theirs and not explained:
            differences.append((case, ours, theirs))
    assert differences == []
    assert seen == {"", "version", "strict"}, "a difference that is explained is no more"
    assert min(counts.values()) > MESSAGES // 20


def explanation(case: Case, ours: str, theirs: str) -> str:
    """Why opendmarc says otherwise, where it is known to; "" where it is not."""
    if case.author == "broken.fr" and (ours, theirs) == ("none none", "permerror none"):
        # RFC 9989 §4.7: a record of another version is discarded, as if there were none.
        return "version"
    passed = [domain for word, domain in (case.spf, *case.dkim) if word == "pass"]
    below = [domain for domain in passed if domain.endswith(f".{case.author}")]
    if (
        below
        and RECORDS.get(case.author, "").find("adkim=s") > 0
        and (ours[:4], theirs[:4]) == ("fail", "pass")
    ):
        # RFC 9989 §4.4.1: strict is the same name. opendmarc takes one below it for the same.
        return "strict"
    return ""


@pytest.fixture
def daemon() -> Any:
    """Starts a program, which is ended after the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(words: list[str]) -> None:
        running.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    yield start
    for process in running:
        process.terminate()
        process.wait(20)


async def _listening(address: str) -> None:
    for _ in range(200):
        try:
            (await connect(reactor, address)).abort()
            return
        except FilterError:
            await deferLater(reactor, 0.05)  # type: ignore[arg-type]
    raise AssertionError("opendmarc does not listen")


async def _ours(dns: MemoryResolver, case: Case, message: bytes) -> str:
    word, domain = case.spf
    spf = SpfResult(word, domain, "mailfrom", f"c@{domain}", "")  # type: ignore[arg-type]
    dkim = [DkimResult(word, domain) for word, domain in case.dkim]  # type: ignore[arg-type]
    told = await Dmarc(dns, Clock()).evaluate(Header(Content(message)), spf, dkim)
    return f"{told.result} {told.policy}"


async def _theirs(address: str, case: Case, message: bytes) -> str:
    session = Session("s", "smtp", "192.0.2.7", 4711, helo="mail.elorac.fr", esmtp=True)
    recipients = (Recipient(parse_address("bob@bricoleur.com")),)
    envelope = Envelope("m1", parse_address(f"c@{case.spf[1]}"), recipients)
    question = Question(session, envelope, Content(message), "mx.example")
    opinion = await ask(question, Means(reactor, address, None, "", 10**6))
    found = re.search(rb"dmarc=([a-z]+)(?: \(p=([a-z]+))?", opinion.field)
    assert found, (case, opinion)
    return f"{found[1].decode()} {(found[2] or b'none').decode()}"
