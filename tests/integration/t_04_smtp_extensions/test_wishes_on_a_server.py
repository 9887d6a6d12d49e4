"""What a sender asks of the way of his mail, on a real server: holding, priorities, a time, REQUIRETLS."""

from __future__ import annotations

import json
import smtplib
import ssl
import time
from collections.abc import Callable
from typing import Any

MESSAGE = b"From: Anne <anne@ours.test>\r\nSubject: Later\r\n\r\nHello\r\n"
PASSWORD = "correct horse battery"


def submission(server: Any) -> smtplib.SMTP:
    smtp = smtplib.SMTP(server.address, 2587, timeout=30)
    smtp._host = server.hostname  # type: ignore[attr-defined]
    smtp.starttls(context=ssl.create_default_context(cafile=str(server.ca)))
    smtp.ehlo("client.test")
    smtp.login("anne@ours.test", PASSWORD)
    return smtp


def test_a_message_for_later_arrives_later_also_over_a_kill(make_server: Callable[..., Any]) -> None:
    server = make_server(accounts=("bob@ours.test", "anne@ours.test"))
    with submission(server) as smtp:
        for name in ("futurerelease", "mt-priority", "deliverby", "requiretls"):
            assert smtp.has_extn(name), name
        begun = time.time()
        smtp.mail("anne@ours.test", ["HOLDFOR=4", "MT-PRIORITY=3", "REQUIRETLS"])
        smtp.rcpt("bob@ours.test")
        code, words = smtp.data(MESSAGE)
        assert code == 250 and b"Held until" in words
    assert server.messages("bob@ours.test") == []
    server.process.kill()
    server.process.wait()
    server.process = None
    server.start()
    (message,) = server.wait_for_messages("bob@ours.test", 1)
    assert time.time() >= begun + 4
    assert b"\n\nHello\n" in message and message.count(b"\nReceived: ") == 2
    server.wait(lambda: not list((server.state / "queue").glob("*.json")), "an empty queue")


def test_held_mail_is_listed_and_can_be_dropped(make_server: Callable[..., Any]) -> None:
    server = make_server(accounts=("bob@ours.test", "anne@ours.test"))
    with submission(server) as smtp:
        smtp.mail("anne@ours.test", ["HOLDUNTIL=2100-01-01T00:00:00Z"])
        assert smtp.docmd("RSET")[0] == 250
        assert smtp.mail("anne@ours.test", ["HOLDUNTIL=2100-01-01T00:00:00Z"])[0] == 501
        smtp.mail("anne@ours.test", ["HOLDFOR=86400"])
        smtp.rcpt("bob@ours.test")
        assert smtp.data(MESSAGE)[0] == 250
    (item,) = json.loads(server.command("queue", "list", "--json").stdout)["items"]
    assert item["recipients"][0]["next_try"] > 86000
    assert server.command("queue", "retry", item["id"]).returncode == 0
    assert server.command("queue", "drop", item["id"]).returncode == 0
    assert json.loads(server.command("queue", "list", "--json").stdout)["items"] == []
    assert server.messages("bob@ours.test") == []
