"""Whether somebody has mail from a domain in his mailboxes. For the check ``greylist``, from the index alone.

Asked for strangers that would else have to wait. Junk and Trash do not count. Bounds: :data:`MAX_FOLDERS`
folders, the :data:`MAX_MESSAGES` newest candidates of each. Never fails: what cannot be read is not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lorrainemail.addresses import AddressError, parse_address
from lorrainemail.interfaces import IMailHome, IStore, ITables, later

MAX_FOLDERS: Final = 50
MAX_MESSAGES: Final = 50

_WORD = re.compile(r"[a-z0-9._-]+\Z")
_NOT_COUNTED: Final = ("\\Junk", "\\Trash", "\\Sent", "\\Drafts", "\\All")

_log = Logger(namespace="lorrainemail.policy")


class Heard:
    """Answers for all accounts.

    :param tables: gives the current tables.
    """

    def __init__(self, store: IStore, tables: Callable[[], ITables]) -> None:
        self._store = store
        self._tables = tables

    def heard_from(self, account: str, domain: str) -> Deferred[bool]:
        """Whether the account of that folded address has mail from the domain."""
        return Deferred.fromCoroutine(self._heard_from(account, domain))

    async def _heard_from(self, key: str, domain: str) -> bool:
        if not _WORD.match(domain):
            return False
        try:
            account = await later(self._tables().account(parse_address(key)))
            if account is None:
                return False
            home = self._store.home(account)
            folders = [
                folder.name
                for folder in await home.folders()
                if folder.selectable and not set(folder.special_use).intersection(_NOT_COUNTED)
            ]
            for name in folders[:MAX_FOLDERS]:
                if await _in_folder(home, name, domain.encode("ascii")):
                    return True
        except AddressError:
            return False
        except Exception:
            _log.failure("The mail of {account} could not be looked at", account=key)
        return False


async def _in_folder(home: IMailHome, name: str, domain: bytes) -> bool:
    mailbox = await home.open(name)
    try:
        uids = await mailbox.candidates("envelope", [domain])
        author = b'"' + domain + b'"))'
        for facts in await mailbox.facts(uids[-MAX_MESSAGES:], wire=True):
            if author in facts.envelope.lower():
                return True
        return False
    finally:
        mailbox.close()
