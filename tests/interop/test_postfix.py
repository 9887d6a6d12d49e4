"""Postfix as the other server: it sends to us, and we relay to it."""

from __future__ import annotations

import smtplib
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.interop

LINES = b"".join(b"%04d .dots and From and such\r\n" % number for number in range(4000))
BODY = b".\r\n..\r\nFrom here\r\n" + LINES + b".leading dot at the end\r\n"
HEADER = b"From: <carole@elorac.test>\r\nTo: <someone@else.test>\r\nSubject: through Postfix\r\n\r\n"


def as_sent(stored: bytes) -> bytes:
    return stored.partition(b"\n\n")[2].replace(b"\n", b"\r\n")


def test_postfix_relays_to_us_byte_for_byte(make_server: Any, postfix: Callable[..., Any]) -> None:
    ours = make_server()
    theirs = postfix(f"{{ ours.test = smtp:[{ours.address}]:2525 }}")
    with smtplib.SMTP(theirs.address, theirs.port, timeout=30) as client:
        client.sendmail("carole@elorac.test", ["bob@ours.test"], HEADER + BODY)
    (stored,) = ours.wait_for_messages("bob@ours.test", 1)
    assert as_sent(stored) == BODY
    assert b"Received: from mail.postfix.test" in stored
    # Opportunistic TLS between two strangers, as between any two servers of today.
    assert b"TLSv1.3" in stored


def test_postfix_hears_of_an_unknown_user_at_once(make_server: Any, postfix: Callable[..., Any]) -> None:
    ours = make_server()
    theirs = postfix(f"{{ ours.test = smtp:[{ours.address}]:2525 }}")
    with smtplib.SMTP(theirs.address, theirs.port, timeout=30) as client:
        client.sendmail("peer@postfix.test", ["nobody@ours.test"], HEADER + b"lost\r\n")
    ours.wait(lambda: b"550 5.1.1" in b"".join(theirs.messages()), "Postfix's bounce")


def test_we_relay_to_postfix_byte_for_byte(make_server: Any, postfix: Callable[..., Any]) -> None:
    theirs = postfix("{ never.test = discard: }")
    ours = make_server(
        configuration=f'relay_networks = ["127.0.0.0/8"]\n\n[relay]\n'
        f'"postfix.test" = "[{theirs.address}]:{theirs.port}"\n'
    )
    with smtplib.SMTP(ours.address, 2525, timeout=30) as client:
        client.sendmail("bob@ours.test", ["peer@postfix.test"], HEADER + BODY)
    ours.wait(lambda: theirs.messages(), "the message at Postfix")
    (stored,) = theirs.messages()
    assert as_sent(stored) == BODY
    ours.wait(lambda: not ours.queued(), "an empty queue")


def test_postfix_refuses_and_our_sender_gets_a_bounce(make_server: Any, postfix: Callable[..., Any]) -> None:
    theirs = postfix("{ never.test = discard: }")
    ours = make_server(
        accounts=("bob@ours.test",),
        configuration=f'[relay]\n"postfix.test" = "[{theirs.address}]:{theirs.port}"\n',
    )
    with smtplib.SMTP(ours.address, 2587, timeout=30) as client:
        client.starttls()
        client.login("bob@ours.test", "correct horse battery")
        client.sendmail(
            "bob@ours.test",
            ["nobody@postfix.test", "peer@postfix.test"],
            b"From: bob@ours.test\r\nTo: nobody@postfix.test\r\nSubject: half\r\n\r\nhello\r\n",
        )
    (bounce,) = ours.wait_for_messages("bob@ours.test", 1)
    assert b"multipart/report" in bounce
    assert b"Final-Recipient: rfc822;nobody@postfix.test" in bounce.replace(b"; ", b";")
    assert b"Return-Path: <>" in bounce
    assert b"550" in bounce and b"5.1.1" in bounce
    ours.wait(lambda: theirs.messages(), "the other recipient's copy")
    assert len(theirs.messages()) == 1
