"""The server's notes to its operator are well-formed and answered by no robot."""

from __future__ import annotations

from email import message_from_bytes
from email.policy import SMTP

from lorrainemail.message.note import note


def test_a_note_reads_as_it_was_meant() -> None:
    wire = note(
        "mail.ours.test", "n1", "Trouble\r\nBcc: x", "Grüße\n.\n" + "x" * 2000 + "\n", 1_700_000_000.0
    )
    assert wire.isascii() and b"\n" not in wire.replace(b"\r\n", b"")
    assert max(map(len, wire.split(b"\r\n"))) <= 998
    parsed = message_from_bytes(wire, policy=SMTP)
    assert parsed["Subject"] == "Trouble??Bcc: x" and parsed["Bcc"] is None
    assert parsed["Auto-Submitted"] == "auto-generated"
    assert parsed.get_content().replace("\r\n", "\n").startswith("Grüße\n.\n" + "x" * 2000)
