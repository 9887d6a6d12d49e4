"""What every login passes, whatever its mechanism: the wait before it, the word about it after.

Owned by :mod:`lorrainemail.sasl.portal`, which makes one :class:`Gate` for all doors. It slows guessers
(:mod:`lorrainemail.sasl.throttle`) and writes the lines that an operator, or a program such as fail2ban,
watches: ``Login refused at DOOR from ADDRESS: ...``, one for each refusal. No password and no name that is
not an account's (people type passwords there) reaches the log.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from lorrainemail.envelope import Session
from lorrainemail.errors import TemporaryError
from lorrainemail.interfaces import Account
from lorrainemail.net.peers import network_key
from lorrainemail.sasl.bans import Bans
from lorrainemail.sasl.record import LoginRecord
from lorrainemail.sasl.throttle import TOO_MANY, Throttle

log = Logger(namespace="lorrainemail.sasl")


class Gate:
    """See the module.

    :param clock: for the waits.
    :param record: remembers attempts at accounts.
    :param bans: keeps networks out that guess on and on.
    """

    def __init__(
        self,
        throttle: Throttle,
        clock: IReactorTime,
        record: LoginRecord | None = None,
        bans: Bans | None = None,
    ) -> None:
        self._throttle = throttle
        self._clock = clock
        self._record = record
        self._bans = bans

    async def wait(self, session: Session, name: str) -> None:
        """Hold an attempt up for as long as its network, or the account, deserves.

        :param name: the folded login name, "" for what cannot be one.
        :raises TemporaryError: where that would be too long, or the network is kept out by now.
        """
        if self._bans is not None and self._bans.refuses(session.peer, logins=True):
            # It came before its ban, or by the smtp door, where its mail is taken.
            raise TemporaryError(TOO_MANY, f"{session.peer} is banned")
        delay = self._throttle.wait(network_key(session.peer), name)
        if delay:
            await deferLater(self._clock, delay)

    def refused(
        self,
        session: Session,
        name: str,
        guess: bytes | None,
        account: Account | None,
        reason: str = "",
    ) -> str:
        """An attempt failed.

        :param guess: what was tried; the same again is no new guess, and None is none.
        :param account: that the name means, None where none.
        :param reason: where it is neither an unknown name, nor a disabled account, nor a wrong password.
        :returns: the reason, for the log alone.
        """
        network = network_key(session.peer)
        if guess is not None:
            self._throttle.failed(network, name, guess)
        if not reason and account is None:
            reason = "no such account"
        elif account is not None and not account.enabled:
            reason = "the account is disabled"
        elif not reason:
            reason = "wrong password"
        if self._record is not None and account is not None:
            self._record.note(session, account.address.key, False, reason)
        log.warn(
            "Login refused at {door} from {peer}: {reason} ({name}, session {session})",
            door=session.door,
            peer=session.peer or "a local peer",
            reason=reason,
            name=account.address.key if account is not None else "a name that is not shown",
            session=session.id,
        )
        if guess is not None and self._bans is not None and self._throttle.is_abusive(network):
            self._bans.strike(network, "it guesses passwords")
        return reason

    def passed(self, session: Session, name: str, account: Account, mechanism: str, label: str = "") -> None:
        """An attempt succeeded.

        :param label: of the password that was used.
        """
        if self._record is not None:
            self._record.note(session, account.address.key, True, mechanism, label)
        self._throttle.succeeded(network_key(session.peer), name)
