"""The factory of one SMTP door, for its endpoints."""

from __future__ import annotations

from twisted.internet.interfaces import IAddress
from twisted.mail.smtp import SMTPFactory

from lorrainemail.smtp.door import Door
from lorrainemail.smtp.lmtp import LmtpServer
from lorrainemail.smtp.server import SmtpServer


class SmtpFactory(SMTPFactory):
    """Makes the sessions of one door.

    :param door: what they share; connections are limited and ended there.
    """

    noisy = False
    protocol = SmtpServer  # type: ignore[assignment]

    def __init__(self, door: Door) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.door = door
        if door.settings.door == "lmtp":
            self.protocol = LmtpServer

    def buildProtocol(self, addr: IAddress | None) -> SmtpServer:
        session: SmtpServer = self.protocol(self.door)
        return session
