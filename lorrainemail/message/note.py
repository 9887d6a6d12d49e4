"""A plain message from the server to its operator, in wire form. Pure."""

from __future__ import annotations

import quopri

from lorrainemail.message.received import rfc5322_date


def note(hostname: str, message_id: str, subject: str, text: str, now: float, to: str = "") -> bytes:
    """To the postmaster, or to that address, who is told by ``subject`` (ASCII) and ``text``.

    :param message_id: unique, without brackets and domain.
    :param now: wall-clock seconds.
    """
    shown = f"<{to}>" if to else f"<postmaster@{hostname}>"
    if not shown.isascii():
        shown = "undisclosed-recipients:;"
    header = (
        f"From: Mail server {hostname} <MAILER-DAEMON@{hostname}>\r\n"
        f"To: {shown}\r\n"
        f"Subject: {''.join(c if ' ' <= c <= '~' else '?' for c in subject)}\r\n"
        f"Date: {rfc5322_date(now)}\r\n"
        f"Message-ID: <{message_id}@{hostname}>\r\n"
        "Auto-Submitted: auto-generated\r\n"  # RFC 3834 §5
        "MIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    )
    return header.encode("ascii") + quopri.encodestring(text.encode()).replace(b"\n", b"\r\n")
