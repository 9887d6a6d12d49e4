"""What Bob moves into Junk teaches the server what he takes for junk, and what he moves back what not."""

from __future__ import annotations

import imaplib
import smtplib
import ssl
from typing import Any

PASSWORD = "correct horse battery"
STRANGER = "127.200.0.1"


def send(server: Any, subject: str, text: str, sender: str) -> None:
    message = f"From: {sender}\r\nSubject: {subject}\r\n\r\n{text}\r\n".encode()
    with smtplib.SMTP(server.address, 2525, timeout=30, source_address=(STRANGER, 0)) as client:
        client.ehlo("mail.elorac.fr")
        client.sendmail(sender, ["bob@bricoleur.com"], message)


def test_bob_teaches_by_moving_mail(make_server: Any) -> None:
    server = make_server(
        hostname="mail.bricoleur.com",
        domains=("bricoleur.com",),
        accounts=("bob@bricoleur.com",),
        configuration='[policy]\nchecks = ["loops", "classifier"]\n\n[actions]\nclassifier = "junk"\n',
    )
    home = server.maildir("bob@bricoleur.com").parent
    for number in range(7):
        send(server, "Cheap pills", f"pills discount casino {number}", "seller@evil.example")
        send(server, "The shelf", f"shelf screws timber {number}", "carole@elorac.fr")
    server.wait_for_messages("bob@bricoleur.com", 14)
    context = ssl.create_default_context(cafile=str(server.ca))
    context.check_hostname = False
    with imaplib.IMAP4_SSL(server.address, 2993, ssl_context=context, timeout=30) as imap:
        imap.login("bob@bricoleur.com", PASSWORD)
        imap.create("Junk")
        imap.select("INBOX")
        imap.store("1:*", "+FLAGS", "\\Seen")
        _, (found,) = imap.search(None, "FROM", "evil.example")
        assert len(found.split()) == 7
        assert imap._simple_command("MOVE", found.replace(b" ", b",").decode(), "Junk")[0] == "OK"  # type: ignore[attr-defined]
    server.wait(lambda: (home / "classifier.sqlite").exists(), "what was learned")
    junk = server.maildir("bob@bricoleur.com") / ".Junk"

    def learned() -> bool:
        send(server, "Cheap pills", "more pills at the casino", "other@evil.example")
        return any((junk / "new").iterdir())

    server.wait(learned, "junk that was recognised")
    stored = next((junk / "new").iterdir()).read_bytes()
    assert b"X-Lorrainemail-Policy: junk classifier (" in stored and b"evil.example" in stored
    before = len(server.messages("bob@bricoleur.com"))
    send(server, "The shelf", "timber for another shelf", "carole@elorac.fr")
    server.wait_for_messages("bob@bricoleur.com", before + 1)
