"""What the doors say, in one place; what is said often is on the wire form already.

Codes: RFC 5321 §4.2; enhanced codes: RFC 3463, RFC 5248, RFC 4954 §6.
"""

from __future__ import annotations

from typing import Final

from lorrainemail.errors import Reply

OK: Final = Reply(250, "2.0.0", "OK").wire()
SENDER_OK: Final = Reply(250, "2.1.0", "Sender OK").wire()
RECIPIENT_OK: Final = Reply(250, "2.1.5", "Recipient OK").wire()
GO_AHEAD: Final = Reply(354, "", "End with a dot on a line of its own").wire()
BYE: Final = Reply(221, "2.0.0", "Bye").wire()
# RFC 5321 §3.5.3: neither confirmed nor denied.
VRFY: Final = Reply(252, "2.5.2", "Cannot verify, but will take a message and try to deliver it").wire()
HELP: Final = Reply(
    214, "2.0.0", "Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT\nSee RFC 5321"
).wire()
START_TLS: Final = Reply(220, "2.0.0", "Ready to start TLS").wire()
LOGGED_IN: Final = Reply(235, "2.7.0", "Authentication successful").wire()

UNKNOWN_COMMAND: Final = Reply(500, "5.5.2", "Command not recognized")
LINE_TOO_LONG: Final = Reply(500, "5.5.2", "Line too long")
LINE_END: Final = Reply(500, "5.5.2", "Lines must end with CRLF")
NO_ARGUMENT: Final = Reply(501, "5.5.4", "No argument is expected")
MISSING_ARGUMENT: Final = Reply(501, "5.5.4", "An argument is expected")
NOT_IMPLEMENTED: Final = Reply(502, "5.5.1", "Command not implemented")
GREET_FIRST: Final = Reply(503, "5.5.1", "Send EHLO first")
NESTED_MAIL: Final = Reply(503, "5.5.1", "A transaction is open already; send RSET first")
MAIL_FIRST: Final = Reply(503, "5.5.1", "Send MAIL first")
ALREADY_TLS: Final = Reply(503, "5.5.1", "TLS is active already")
ALREADY_LOGGED_IN: Final = Reply(503, "5.5.1", "Authenticated already")
NOT_DURING_MAIL: Final = Reply(503, "5.5.1", "Not during a mail transaction")
# RFC 3030 §2: after a BDAT nothing but BDAT.
CHUNKS_BEGUN: Final = Reply(
    503, "5.5.1", "The message has begun by BDAT; end it with BDAT LAST, or send RSET"
)
NO_RECIPIENTS: Final = Reply(554, "5.5.1", "No valid recipients")
TOO_MANY_RECIPIENTS: Final = Reply(452, "4.5.3", "Too many recipients; send the message again for the others")
NOT_BELIEVED: Final = Reply(550, "5.7.0", "You are not known as a server in front of this one")
LOGIN_FIRST: Final = Reply(530, "5.7.0", "Authentication required")
TLS_FIRST: Final = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
# RFC 4954 §6.
LOGIN_NEEDS_TLS: Final = Reply(538, "5.7.11", "Encryption required for authentication")
# RFC 8689 §4.1.
REQUIRETLS_NEEDS_TLS: Final = Reply(530, "5.7.10", "REQUIRETLS needs TLS on the way to here too")
NEEDS_LOGIN: Final = Reply(530, "5.7.0", "Holding and priorities are for users who logged in")
NEEDS_TRUST: Final = Reply(530, "5.7.0", "Delivery by a time is for users who logged in and listed networks")
SIZE_OVER: Final = Reply(552, "5.3.4", "Message size exceeds the limit")

TOO_MANY_ERRORS: Final = Reply(421, "4.7.0", "Too many errors, closing connection")
TOO_MANY_LOGINS: Final = Reply(421, "4.7.0", "Too many failed logins, closing connection")
NOT_SMTP: Final = Reply(421, "4.7.0", "This is no web server, closing connection")
TIMED_OUT: Final = Reply(421, "4.4.2", "Timeout, closing connection")
LOGIN_ENDED: Final = Reply(421, "4.7.0", "Your login is no longer good, closing connection")
SHUTTING_DOWN: Final = Reply(421, "4.3.2", "Service shutting down, try again later")
TOO_MANY_HERE: Final = Reply(421, "4.7.0", "Too many connections from your network, try again later")
TOO_MANY_AT_ALL: Final = Reply(421, "4.7.0", "Too many connections, try again later")
# RFC 5321 §3.1.
BANNED: Final = Reply(554, "5.7.1", "Connections from your network are refused")
#: By what a counter of connections says.
TURNED_AWAY: Final = {"peer": TOO_MANY_HERE, "total": TOO_MANY_AT_ALL, "banned": BANNED}
