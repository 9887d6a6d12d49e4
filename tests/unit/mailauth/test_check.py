"""The policy check: what is told, what goes to Junk, what is refused, and whom it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Session
from lorrainemail.interfaces import Action, Circumstances, IPolicyCheck, PolicyResources, RelayRight, Verdict
from lorrainemail.mailauth.check import MailAuth
from lorrainemail.mailauth.memory import MemoryResolver
from lorrainemail.ops.content import Content
from lorrainemail.policy.chain import build_chain

PEER = "192.0.2.1"
MESSAGE = b"From: Carole <carole@elorac.fr>\r\nTo: jean@bricoleur.com\r\nSubject: x\r\n\r\nBonjour\r\n"
NO: Any = None


def judge(
    rows: dict[str, Any],
    message: bytes = MESSAGE,
    sender: str = "carole@elorac.fr",
    door: Any = "smtp",
    relay: bool = False,
) -> Verdict | None:
    resolver = MemoryResolver(rows)
    check = MailAuth(resolver, Clock(), lambda work: succeed(work()), "mail.bricoleur.com")
    assert IPolicyCheck.providedBy(check)
    answer = check.judge(
        Circumstances(
            "data",
            Session("s", door, PEER, helo="mail.elorac.fr"),
            NO,
            parse_address(sender) if sender else None,
            relay=RelayRight(relay, ""),
            content=Content(message),
        )
    )
    if not isinstance(answer, Deferred):
        return answer
    found: list[Any] = []
    answer.addBoth(found.append)
    if not isinstance(found[0], Verdict):
        found[0].raiseException()
    verdict: Verdict = found[0]
    return verdict


def told(verdict: Verdict | None) -> str:
    assert verdict is not None
    return verdict.field.decode().replace("\r\n\t", " ")


def zone(spf: str = "v=spf1 ip4:192.0.2.0/24 -all", dmarc: str = "v=DMARC1; p=reject") -> dict[str, Any]:
    return {"elorac.fr": [("TXT", spf)], "_dmarc.elorac.fr": [("TXT", dmarc)]}


def test_a_message_of_its_own_domain_passes_and_says_so() -> None:
    verdict = judge(zone())
    assert verdict is not None and verdict.action is Action.CONTINUE and verdict.verified
    text = told(verdict)
    assert text.startswith(
        "Authentication-Results: mail.bricoleur.com; spf=pass smtp.mailfrom=carole@elorac.fr;"
    )
    assert "dkim=none;" in text and "dmarc=pass (p=reject) header.from=elorac.fr" in text.replace("\t", "")


def test_a_signed_message_that_was_forwarded_passes_by_its_signature(elorac: Any) -> None:
    rows = {**elorac.dns.rows, **zone(spf="v=spf1 -all")}
    verdict = judge(rows, elorac.sign(MESSAGE), sender="list@lists.example")
    assert verdict is not None and verdict.action is Action.CONTINUE
    assert "dmarc=pass" in told(verdict) and "header.a=ed25519-sha256" in told(verdict)
    # The list's own reverse-path is not proved by the author's signature.
    assert not verdict.verified
    again = judge(rows, elorac.sign(MESSAGE), sender="bounces@mail.elorac.fr")
    assert again is not None and again.verified


@pytest.mark.parametrize("policy", ["quarantine", "reject"])
def test_a_failing_message_goes_to_junk_as_its_domain_wants(policy: str) -> None:
    verdict = judge(zone(spf="v=spf1 ~all", dmarc=f"v=DMARC1; p={policy}"))
    assert verdict is not None and verdict.action is Action.JUNK and not verdict.verified
    assert "elorac.fr wants such mail" in verdict.reason and "softfail" in verdict.reason
    assert "dmarc=fail" in told(verdict)


@pytest.mark.parametrize("dmarc", ["v=DMARC1; p=none", "v=DMARC1; p=reject; t=y"])
def test_a_domain_that_asks_for_nothing_has_nothing_done(dmarc: str) -> None:
    verdict = judge(zone(spf="v=spf1 -all", dmarc=dmarc))
    assert verdict is not None and verdict.action is Action.CONTINUE
    assert "dmarc=fail" in told(verdict)


def test_refused_is_only_what_nothing_speaks_for_and_the_reply_says_why() -> None:
    rows = zone(spf="v=spf1 ip4:198.51.100.1 -all")
    verdict = judge(rows)
    assert verdict is not None and verdict.action is Action.REFUSE and verdict.reply is not None
    assert (verdict.reply.code, verdict.reply.enhanced) == (550, "5.7.26")
    for word in ("elorac.fr", "SPF", "DKIM", PEER):
        assert word in verdict.reply.text
    assert "\n" not in verdict.reply.text and len(verdict.reply.text) < 450


@pytest.mark.parametrize("field", [b"List-Id: <l.example>\r\n", b"Resent-From: a@b\r\n"])
def test_mail_that_was_forwarded_is_never_refused(field: bytes) -> None:
    verdict = judge(zone(spf="v=spf1 -all"), field + MESSAGE)
    assert verdict is not None and verdict.action is Action.JUNK


def test_a_chain_of_forwarders_is_told() -> None:
    verdict = judge(zone(), b"ARC-Seal: i=1; a=rsa-sha256; cv=none; d=l.example; s=s; b=AAAA\r\n" + MESSAGE)
    assert 'arc=fail (i=0 d=?) reason="a set is incomplete"' in told(verdict)


def test_a_client_with_a_name_that_leads_back_is_not_refused() -> None:
    rows = zone(spf="v=spf1 -all")
    rows["1.2.0.192.in-addr.arpa"] = [("PTR", "mail.forwarder.example")]
    verdict = judge(rows)
    assert verdict is not None and verdict.action is Action.REFUSE  # the name leads nowhere
    rows["mail.forwarder.example"] = [("A", PEER)]
    verdict = judge(rows)
    assert verdict is not None and verdict.action is Action.JUNK
    rows["1.2.0.192.in-addr.arpa"] = [("PTR", "TIMEOUT")]
    verdict = judge(rows)
    assert verdict is not None and verdict.action is Action.JUNK


def test_two_from_fields_go_to_junk() -> None:
    verdict = judge(zone(), MESSAGE.replace(b"To:", b"From: a@evil.example\r\nTo:"))
    assert verdict is not None and verdict.action is Action.JUNK
    assert "more than one From" in verdict.reason


def test_a_bounce_is_judged_by_its_greeting_and_proves_no_reverse_path() -> None:
    rows = zone()
    rows["mail.elorac.fr"] = [("TXT", "v=spf1 ip4:192.0.2.1 -all")]
    verdict = judge(rows, sender="")
    assert verdict is not None and not verdict.verified
    assert "spf=pass smtp.helo=mail.elorac.fr" in told(verdict) and "dmarc=pass" in told(verdict)


def test_a_dns_without_answers_refuses_nothing() -> None:
    rows = {"elorac.fr": [("TXT", "TIMEOUT")], "_dmarc.elorac.fr": [("TXT", "TIMEOUT")]}
    verdict = judge(rows)
    assert verdict is not None and verdict.action is Action.CONTINUE
    assert "spf=temperror" in told(verdict) and "dmarc=temperror" in told(verdict)


def test_our_own_users_and_hosts_are_not_judged() -> None:
    assert judge(zone(), relay=True) is None
    for door in ("submission", "lmtp", "local"):
        assert judge(zone(), door=door) is None


def test_a_hostile_message_cannot_write_into_the_field() -> None:
    message = MESSAGE.replace(b"elorac.fr>", b'elorac.fr"; dmarc=pass (x>')
    assert "dmarc=pass" not in told(judge(zone(spf="v=spf1 -all"), message))


def test_the_check_is_found_as_a_plugin_and_wants_a_dns() -> None:
    whole = PolicyResources(Clock(), MemoryResolver(), "mail.bricoleur.com")
    assert build_chain(("mailauth",), whole).stages == {"mail", "data"}
    without = PolicyResources(Clock(), None, "mail.bricoleur.com")
    assert not build_chain(("mailauth",), without).stages


def test_explain_hears_what_spf_would_say_and_a_session_is_not_kept_waiting_for_it() -> None:
    whole = PolicyResources(Clock(), MemoryResolver(zone()), "mail.bricoleur.com")
    chain = build_chain(("mailauth",), whole)
    session = Session("s", "smtp", "198.51.100.1", helo="mail.elorac.fr")
    sender, relay = parse_address("carole@elorac.fr"), RelayRight(False, "")
    assert chain.judge(Circumstances("mail", session, NO, sender, relay=relay)) == ()
    found: list[tuple[Verdict, ...]] = []
    asked = chain.judge(Circumstances("mail", session, NO, sender, relay=relay, dry_run=True))
    assert isinstance(asked, Deferred)
    asked.addCallback(found.append)
    ((verdict,),) = found
    assert verdict.action is Action.CONTINUE and "spf fail: elorac.fr says '-all'" in verdict.reason
