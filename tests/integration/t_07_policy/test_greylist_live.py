"""The greylist on a live server: strangers wait, a sender that Bob has mail from does not."""

from __future__ import annotations

import smtplib
from typing import Any

CLIENT = "192.0.2.7"


def send(server: Any, sender: str, client: str = "") -> int:
    """Send as a client from that address (by XCLIENT); the code of the reply to the message."""
    message = f"From: {sender}\r\nSubject: Your code is 1234\r\n\r\n1234\r\n"
    with smtplib.SMTP(server.address, 2525, timeout=30) as smtp:
        smtp.ehlo("front.example")
        if client:
            code, text = smtp.docmd("XCLIENT", f"ADDR={client}")
            assert code == 220, text
            smtp.ehlo("mail.example")
        try:
            smtp.sendmail(sender, ["bob@bricoleur.com"], message)
        except smtplib.SMTPDataError as error:
            return int(error.smtp_code)
        return 250


def test_a_code_from_a_sender_that_bob_has_mail_from_is_never_late(make_server: Any) -> None:
    server = make_server(
        hostname="mail.bricoleur.com",
        domains=("bricoleur.com",),
        accounts=("bob@bricoleur.com",),
        configuration='xclient_networks = ["127.0.0.0/8"]\n\n'
        '[policy]\nchecks = ["loops", "greylist"]\n\n[actions]\ngreylist = "refuse"\n',
    )
    assert send(server, "newsletter@bank.example") == 250  # from this machine: nobody waits
    server.wait_for_messages("bob@bricoleur.com", 1)
    assert send(server, "login-77@bank.example", CLIENT) == 250
    assert send(server, "who@stranger.example", CLIENT) == 451
    assert send(server, "who@stranger.example", CLIENT) == 451
    server.wait_for_messages("bob@bricoleur.com", 2)
    assert (server.state / "policy.sqlite").exists()
    told = server.command("trace", "bob@bricoleur.com").stdout
    server.wait(
        lambda: "has mail from bank.example" in server.command("trace", "bob@bricoleur.com").stdout,
        f"the reason in the trace: {told}",
    )
