"""Makes ``twistd lorrainemail`` known to Twisted."""

from twisted.application.service import ServiceMaker

lorrainemail = ServiceMaker(
    "lorrainemail",
    "lorrainemail.tap",
    "A complete mail server: SMTP, POP3 and IMAP.",
    "lorrainemail",
)
