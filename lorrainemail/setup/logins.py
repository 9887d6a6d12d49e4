"""The logins of a server, put together: passwords, the gate, the mechanisms, the one portal.

Called by :mod:`lorrainemail.service`, which hands :attr:`Logins.authenticator` to the doors. A service: it
starts and stops what logins need. A changed configuration goes in through :meth:`Logins.reconfigure`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn

import attrs
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lorrainemail.config.model import Settings
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.interfaces import Account, IMailHome, ITableService
from lorrainemail.net.peers import network_key
from lorrainemail.sasl.bans import Bans
from lorrainemail.sasl.bearer import Bearer, Provider
from lorrainemail.sasl.book import Book
from lorrainemail.sasl.external import Authorities, External
from lorrainemail.sasl.gate import Gate
from lorrainemail.sasl.passwords import Passwords
from lorrainemail.sasl.portal import Authenticator, make_portal
from lorrainemail.sasl.record import LoginRecord
from lorrainemail.sasl.renewal import Renewals
from lorrainemail.sasl.throttle import Throttle
from lorrainemail.sasl.verifiers import KEY_OCTETS, Scram
from lorrainemail.tables.edit import change_credentials_of

_log = Logger(namespace="lorrainemail")

#: In the state directory: the key of the salts that names without an account are told.
SALT_KEY: Final = "salt-key"


class Logins(MultiService):
    """See the module.

    :param home: the folders of an account (``store.home``).
    :param in_thread: runs blocking work.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        tables: ITableService,
        home: Callable[[Account], IMailHome],
        in_thread: Callable[..., Deferred[Any]],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = "logins"
        self._state = settings.state
        self.passwords = Passwords(reactor)
        self.passwords.setServiceParent(self)  # type: ignore[no-untyped-call]
        tables.on_change(self.passwords.forget)
        self._tables = tables
        self._book = Book(settings.state, in_thread)
        self._record = LoginRecord(self._book, reactor)
        self.bans = Bans(self._book)
        self._throttle = Throttle(reactor)
        gate = Gate(self._throttle, reactor, self._record, self.bans)
        amend = partial(change_credentials_of, settings.state) if settings.tables == "files" else None
        self._renewals = Renewals(in_thread, amend, settings.auth.scram)
        self._scram = Scram(tables, gate, settings.auth.scram)
        portal = make_portal(tables, home, self.passwords, gate, proved=self._renewals.proved)
        prepared = prepare_logins(settings, reactor, tables)
        self._external = External(tables, gate, prepared.authorities)
        self._bearer = Bearer(tables, gate, prepared.provider)
        self.authenticator = Authenticator(portal, (self._external, self._scram, self._bearer))

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._need_salts()
        self.bans.load()
        for account, peer in self._record.known():
            self._throttle.trust(network_key(peer), account)

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await MultiService.stopService(self)  # type: ignore[no-untyped-call]
        await self._record.flush()
        await self._book.close()

    def commands(self) -> dict[str, Callable[..., Any]]:
        """What the operator's commands ask of a running server."""
        return {
            "logins.flush": self._record.flush,
            "ban.list": self.bans.listing,
            "ban.add": self.bans.add,
            "ban.remove": self.bans.remove,
        }

    @property
    def ask_clients(self) -> bool:
        """Whether clients are asked for a certificate."""
        return self._external.authorities is not None

    def reconfigure(self, settings: Settings, prepared: Prepared) -> None:
        """Take a changed configuration. Nothing of this can fail.

        :param prepared: :func:`prepare_logins` of it.
        """
        self._external.authorities = prepared.authorities
        self._bearer.provider = prepared.provider
        self._scram.enabled = self._renewals.with_scram = settings.auth.scram
        self._need_salts()

    def may_stay(self, account: Account) -> bool:
        """Whether somebody who logged in to an account would still be let in: it is there and enabled, and
        none of its passwords of then was taken away. What we ourselves wrote anew is no other password."""
        now = self._tables.current().account(account.address)
        if isinstance(now, Deferred):
            # A backend that is asked each time; it tells of no changes either.
            now.addErrback(lambda _: None)
            return True
        if now is None or not now.enabled:
            return False
        if now.credentials == account.credentials:
            return True  # asked for every session at every change of a table
        then, kept = frozenset(account.credentials), frozenset(now.credentials)
        return then <= kept or self._renewals.written.get(account.address.key) == (then, kept)

    def alarms(self) -> list[Problem]:
        """What keeps somebody from logging in."""
        return self.passwords.alarms()

    def _need_salts(self) -> None:
        if not self._scram.enabled:
            return
        path = os.path.join(self._state, SALT_KEY)
        try:
            self._scram.secret = _kept_key(path)
        except OSError as error:
            # Unknown names get other salts after the next start: a guesser could tell them apart.
            _log.error("{path} cannot be kept: {reason}", path=path, reason=error.strerror)


@attrs.frozen(slots=True)
class Prepared:
    """What logins need of the configuration that can be wrong.

    :ivar authorities: who signs the certificates of users, None where they have none.
    :ivar provider: whose tokens are taken, None where none are.
    """

    authorities: Authorities | None = None
    provider: Provider | None = None


def prepare_logins(settings: Settings, reactor: Any, tables: ITableService | None = None) -> Prepared:
    """Make it.

    :param tables: None where nobody is going to log in (a check).
    :raises ConfigurationError: with every problem.
    """
    problems: list[Problem] = []
    authorities, provider = None, None
    try:
        authorities = Authorities.read(settings.auth.client_ca) if settings.auth.client_ca else None
    except ConfigurationError as error:
        problems += error.problems
    try:
        provider = _provider(settings, reactor, tables)
    except ConfigurationError as error:
        problems += error.problems
    if problems:
        raise ConfigurationError(tuple(problems))
    return Prepared(authorities, provider)


def _provider(settings: Settings, reactor: Any, tables: ITableService | None) -> Provider | None:
    oauth = settings.oauth
    if not oauth.keys and not oauth.introspection:
        if oauth.issuer or oauth.audience:
            _wrong(
                settings, "oauth", "[oauth] does not say how tokens are checked", "set keys or introspection"
            )
        return None
    if oauth.keys and oauth.introspection:
        _wrong(settings, "keys", "tokens are checked by keys or by introspection, not both", "take one out")
    if not oauth.issuer or not oauth.audience:
        what = "a token of any issuer, or for anybody, would be taken"
        _wrong(settings, "keys" if oauth.keys else "introspection", what, "set issuer and audience")
    # The modules of tokens and of the web are loaded only where somebody uses them.
    from lorrainemail.net.web import Web
    from lorrainemail.sasl.oauth import Introspection, KeySet
    from lorrainemail.sasl.tokens import Expected

    expected = Expected(oauth.issuer, oauth.audience, oauth.scopes, oauth.claim)
    web = Web(reactor, oauth.trust)
    if oauth.keys:
        tokens: Any = KeySet(oauth.keys, expected, web.ask, reactor)
    else:
        row = oauth.credentials
        if row and tables is not None and tables.secret(row) is None:
            _log.error('[oauth] names the row "{row}", which the credentials file does not have', row=row)

        def client() -> tuple[str, str] | None:
            return tables.secret(row) if tables is not None and row else None

        tokens = Introspection(oauth.introspection, expected, client, web.ask, reactor)
    return Provider(tokens, oauth.discovery, " ".join(oauth.scopes))


def _wrong(settings: Settings, key: str, what: str, mend: str) -> NoReturn:
    where = settings.origin("oauth", key)
    raise ConfigurationError((Problem(where.file, where.line, what, mend),))


def _kept_key(path: str) -> bytes:
    """The octets in the file, made up where there is none."""
    try:
        with open(path, "rb") as file:
            key = file.read(KEY_OCTETS)
        if len(key) == KEY_OCTETS:
            return key
    except FileNotFoundError:
        pass
    key = secrets.token_bytes(KEY_OCTETS)
    temporary = f"{path}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600), "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    return key
