"""What the end of a command means for the mail: sysexits.h, as Sendmail, Postfix and qmail read it.

Pure. Called by :mod:`~lorrainemail.delivery.pipe`.
"""

from __future__ import annotations

import re
from typing import Final

from lorrainemail.errors import Reply

#: Characters of a command's words that are passed on.
MAX_WORDS: Final = 200

_MEANINGS: Final[dict[int, tuple[int, str, str]]] = {
    64: (500, "5.5.4", "usage error"),
    65: (554, "5.6.0", "the message could not be read"),
    66: (550, "5.3.0", "an input was missing"),
    67: (550, "5.1.1", "user unknown"),
    68: (550, "5.1.2", "host unknown"),
    69: (554, "5.3.0", "service unavailable"),
    70: (554, "5.3.0", "internal error"),
    71: (451, "4.3.0", "system error"),
    72: (554, "5.3.0", "a system file was missing"),
    73: (550, "5.2.0", "an output could not be made"),
    74: (451, "4.3.0", "input or output error"),
    75: (451, "4.3.0", "temporary failure"),
    76: (554, "5.5.0", "protocol error"),
    77: (550, "5.7.0", "permission denied"),
    78: (451, "4.3.5", "local configuration error"),
    100: (554, "5.3.0", "refused"),
    111: (451, "4.3.0", "temporary failure"),
}
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]+")

DELIVERED: Final = Reply(250, "2.1.5", "Delivered to the command")
TOO_LONG: Final = Reply(451, "4.3.0", "The command ran for too long and was ended")
TOO_MUCH: Final = Reply(451, "4.3.0", "The command wrote too much and was ended")


def reply_of(status: int, output: bytes = b"") -> Reply:
    """The reply for an exit status; qmail's 99 (delivered, and nothing after it) is 0.

    :param status: negative is the number of the signal that ended it.
    :param output: what it wrote; its last line goes into the reply.
    """
    if status in (0, 99):
        return DELIVERED
    if status < 0:
        return Reply(451, "4.3.0", f"The command was ended by signal {-status}")
    code, enhanced, words = _MEANINGS.get(status, (554, "5.3.0", f"exit status {status}"))
    said = words_of(output)
    return Reply(code, enhanced, f"The command failed: {words}" + (f' ("{said}")' if said else ""))


def words_of(output: bytes) -> str:
    """The last line that says something, printable and short."""
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return _UNPRINTABLE.sub(" ", lines[-1]).strip()[:MAX_WORDS] if lines else ""
