"""An account's owner hears that his mailbox fills, before anything is refused: a whole server."""

from __future__ import annotations

import imaplib
import smtplib
from typing import Any

PATIENCE = 30.0
PASSWORD = "correct horse battery"
#: Nine messages of some 10 KiB are more than 80 and less than 95 percent of it.
QUOTA = "::::::userdb_quota_rule=*:storage=110K"


def subjects(server: Any) -> list[bytes]:
    with imaplib.IMAP4(server.address, 2143, timeout=PATIENCE) as session:
        session.login("bob@ours.test", PASSWORD)
        session.select("INBOX", readonly=True)
        _, found = session.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
        return [part[1].strip() for part in found if isinstance(part, tuple)]


def test_the_owner_is_told_at_80_percent_and_once(make_server: Any) -> None:
    server = make_server(start=False, configuration='[auth]\nplaintext = "loopback"\n')
    accounts = server.state / "accounts"
    accounts.write_text(accounts.read_text().rstrip("\n").rstrip(":") + QUOTA + "\n")
    server.start()
    with smtplib.SMTP(server.address, 2525, timeout=PATIENCE) as session:
        body = "x" * 70 + "\r\n"
        for number in range(9):
            text = f"Subject: message {number}\r\n\r\n" + body * 140
            session.sendmail("carole@elorac.test", ["bob@ours.test"], text)
    server.wait(lambda: b"Subject: Your mailbox is 80 % full" in subjects(server), "the note about the quota")
    notes = [subject for subject in subjects(server) if b"mailbox is" in subject]
    assert notes == [b"Subject: Your mailbox is 80 % full"]
