"""The store's failures: one maker for each, so that every door finds the same code word in ``detail``.

``detail`` begins with the IMAP response code (RFC 9051 §7.1, RFC 5530) that the failure deserves, which is
all of it for permanent ones; the reply is what SMTP would say.
"""

from __future__ import annotations

import errno
from typing import Final

from lorrainemail.errors import STORAGE_FULL, MailError, PermanentError, Reply, TemporaryError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

OVER_QUOTA: Final = Reply(552, "5.2.2", "Mailbox full")
NOT_NOW: Final = Reply(451, "4.3.0", "Mailbox not available now, try again later")


def nonexistent(name: str) -> PermanentError:
    """There is no such folder."""
    return PermanentError(Reply(550, "5.2.0", f"No folder {_shown(name)}"), "NONEXISTENT")


def try_create(name: str) -> PermanentError:
    """The target of APPEND, COPY or MOVE is missing, and could be made."""
    return PermanentError(Reply(550, "5.2.0", f"No folder {_shown(name)}"), "TRYCREATE")


def already_exists(name: str) -> PermanentError:
    """The folder is there already."""
    return PermanentError(Reply(550, "5.2.0", f"Folder {_shown(name)} exists"), "ALREADYEXISTS")


def cannot(why: str) -> PermanentError:
    """It can never be done."""
    return PermanentError(Reply(550, "5.2.0", why), "CANNOT")


def gone() -> PermanentError:
    """The message was expunged."""
    return PermanentError(Reply(550, "5.2.0", "The message is gone"), "EXPUNGEISSUED")


def over_quota() -> PermanentError:
    """The account may keep no more."""
    return PermanentError(OVER_QUOTA, "OVERQUOTA")


def limit(why: str) -> PermanentError:
    """A bound of ours."""
    return PermanentError(Reply(550, "5.2.0", why), "LIMIT")


def from_os(error: OSError, doing: str) -> MailError:
    """What an operating-system error at our disk means to others: always temporary."""
    reply = STORAGE_FULL if error.errno in _FULL else NOT_NOW
    return TemporaryError(reply, f"{doing}: {error}")


def _shown(name: str) -> str:
    """A folder's name fit for one line of a reply."""
    return "".join(c if c.isprintable() else "?" for c in name)[:80]
