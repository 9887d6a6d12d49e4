"""``lorrainemail explain`` on mail to domains that publish how it must come."""

from __future__ import annotations

import json
from typing import Any

from lorrainemail.addresses import Address
from lorrainemail.cli.explain import Explanation, Question, Stage, Way, as_json, as_text
from lorrainemail.delivery.hops import Hop, NextHops
from lorrainemail.interfaces import RemoteMailbox, Route
from lorrainemail.tlspolicy.plan import HostPolicy, Plan, Published

STS = Published("sts", "theirs.test", ("version: STSv1", "mode: enforce"), ("mx1.theirs.test",))
GOOD = HostPolicy("verified", "the MTA-STS policy of theirs.test (enforce): verified TLS", STS, True)
BAD = HostPolicy(
    "wait", "the MTA-STS policy of theirs.test does not name it", STS, fault="validation-failure"
)


def explained(**more: Any) -> Explanation:
    recipient = Address("bob", "theirs.test")
    hops = NextHops(
        (
            Hop("mx1.theirs.test", 25, ("192.0.2.1",), 10),
            Hop("mx2.theirs.test", 25, ("192.0.2.2",), 20),
        )
    )
    plan = Plan("theirs.test", {"mx1.theirs.test": GOOD, "mx2.theirs.test": BAD}, STS, **more)
    final = RemoteMailbox(recipient, ())
    way = Way(final, Route("mx", "theirs.test"), hops, plan=plan)
    return Explanation(Question(recipient, None, "192.0.2.9"), (Stage("rcpt"),), None, (way,))


def test_each_host_has_its_policy_and_why() -> None:
    lines = list(as_text(explained()))
    at = next(number for number, line in enumerate(lines) if "1. MX 10 mx1" in line)
    assert lines[at + 1].strip() == GOOD.words
    assert lines[at + 3].strip() == f"not used: {BAD.words}"


def test_what_could_not_be_found_out_is_said() -> None:
    text = "\n".join(
        as_text(explained(words="the web server hung up", fault="sts-policy-fetch-error", note="N"))
    )
    assert "cannot be had: the web server hung up" in text and "    N" in text


def test_programs_read_the_same() -> None:
    answer = json.loads(json.dumps(as_json(explained(fault="sts-policy-invalid"))))
    (final,) = answer["finals"]
    first, second = (hop["security"] for hop in final["hops"])
    assert (first["use"], first["authentic"], first["policy"]) == ("verified", True, "sts")
    assert first["records"] == list(STS.strings)
    assert (second["use"], second["authentic"]) == ("wait", False)
    assert final["tls_fault"] == "sts-policy-invalid"
