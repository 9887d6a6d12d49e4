"""Postfix with us where both know an extension, and where one of us keeps it from the other."""

from __future__ import annotations

import smtplib
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.interop

MESSAGE = b"From: <bob@ours.test>\r\nTo: <peer@postfix.test>\r\nSubject: notices\r\n\r\n.\r\nhello\r\n"


def pair(make_server: Any, postfix: Callable[..., Any], top: str = "") -> Any:
    """A server of ours (not yet started) and a Postfix, each the other's next hop."""
    ours = make_server(start=False, configuration=top)
    theirs = postfix(f"{{ ours.test = smtp:[{ours.address}]:2525 }}")
    with open(ours.configuration, "a") as configuration:
        configuration.write(f'\n[relay]\n"postfix.test" = "[{theirs.address}]:{theirs.port}"\n')
    return ours, theirs


def ask(host: str, port: int, sender: str, recipient: str, message: bytes = MESSAGE) -> None:
    with smtplib.SMTP(host, port, timeout=30) as client:
        client.sendmail(sender, [recipient], message, ["RET=HDRS", "ENVID=E1"], ["NOTIFY=SUCCESS"])


def test_postfix_confirms_what_we_relay_to_it(make_server: Any, postfix: Callable[..., Any]) -> None:
    """Our user asks for a notice; Postfix, which delivers, sends it, and we do not."""
    ours, theirs = pair(make_server, postfix, 'relay_networks = ["127.0.0.0/8"]')
    ours.start()
    ask(ours.address, 2525, "bob@ours.test", "peer@postfix.test")
    ours.wait(lambda: theirs.messages(), "the message at Postfix")
    (notice,) = ours.wait_for_messages("bob@ours.test", 1)
    assert b"Reporting-MTA: dns; mail.postfix.test" in notice and b"Action: delivered" in notice
    assert b"Original-Envelope-Id: E1" in notice
    ours.wait(lambda: not ours.queued(), "an empty queue")
    assert len(ours.messages("bob@ours.test")) == 1


def test_postfix_tells_its_own_user_that_it_relayed_to_us(
    make_server: Any, postfix: Callable[..., Any]
) -> None:
    """To a stranger we promise no notices, so its own server tells him what it knows."""
    ours, theirs = pair(make_server, postfix)
    ours.start()
    ask(theirs.address, theirs.port, "peer@postfix.test", "bob@ours.test")
    ours.wait_for_messages("bob@ours.test", 1)
    ours.wait(lambda: theirs.messages(), "Postfix's notice")
    (notice,) = theirs.messages()
    assert b"Action: relayed" in notice and b"Reporting-MTA: dns; mail.postfix.test" in notice


def test_we_confirm_to_a_listed_postfix(make_server: Any, postfix: Callable[..., Any]) -> None:
    ours, theirs = pair(make_server, postfix, 'relay_networks = ["127.0.0.0/8"]')
    ours.start()
    ask(theirs.address, theirs.port, "peer@postfix.test", "bob@ours.test")
    ours.wait(lambda: theirs.messages(), "our notice")
    (notice,) = theirs.messages()
    assert b"Reporting-MTA: dns; mail.ours.test" in notice and b"Action: delivered" in notice
    assert b"Original-Envelope-Id: E1" in notice


def test_postfix_delivers_by_lmtp(make_server: Any, postfix: Callable[..., Any]) -> None:
    """Two recipients of one message, of whom one does not exist: one mailbox, one bounce."""
    ours = make_server(start=False)
    text = ours.configuration.read_text()
    door = f"[listen]\nlmtp = ['tcp:2424:interface={ours.address}']\n"
    ours.configuration.write_text(text.replace("[listen]\n", door))
    ours.start()
    theirs = postfix(f"{{ ours.test = lmtp:inet:[{ours.address}]:2424 }}")
    with smtplib.SMTP(theirs.address, theirs.port, timeout=30) as client:
        client.sendmail("peer@postfix.test", ["bob@ours.test", "nobody@ours.test"], MESSAGE)
    (stored,) = ours.wait_for_messages("bob@ours.test", 1)
    assert b" with LMTPS\n" in stored or b" with LMTP\n" in stored
    assert stored.endswith(b"\n\n.\nhello\n")
    ours.wait(lambda: theirs.messages(), "Postfix's bounce")
    (bounce,) = theirs.messages()
    assert b"nobody@ours.test" in bounce and b"5.1.1" in bounce
