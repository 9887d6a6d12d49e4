"""The one login of the server: a twisted.cred portal, its realm and its checker.

Owns who may log in. :func:`make_portal` composes the portal from the tables, the passwords, the throttle and
the store's homes; every door logs in through :class:`Authenticator`, which asks the portal and turns what it
says into the failures of :mod:`lorrainemail.errors`: :class:`PermanentError` (535 5.7.8) for whatever is
wrong with name or password, :class:`TemporaryError` (454 4.7.0) for what may pass.

Invariants: unknown names, disabled accounts and wrong passwords look the same from outside, in words and in
work; the reason is in the log alone. No password, and no name that is not an account's (people type passwords
there), reaches the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import attrs
from prometheus_client import Counter
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import Interface, implementer

from lorrainemail.addresses import AddressError, fold_local, parse_address
from lorrainemail.envelope import Session
from lorrainemail.errors import MailError, PermanentError, TemporaryError
from lorrainemail.interfaces import (
    Account,
    IAuthenticator,
    IMailHome,
    IPasswords,
    IPrincipal,
    ITableService,
    later,
)
from lorrainemail.net.peers import network_key
from lorrainemail.sasl.mechanisms import CREDENTIALS_INVALID, TEMPORARY_FAILURE, prepare_name
from lorrainemail.sasl.throttle import Throttle

log = Logger(namespace="lorrainemail.sasl")

_LOGINS = Counter("lorrainemail_logins", "Logins tried, by their end", ["door", "result"])

#: {Twisted interface: what makes its avatar of a principal}; each adapter lives in its door.
Adapters = Mapping[type[Interface], Callable[[IPrincipal], object]]

_NOWHERE: Final = Session(id="-", door="local")


@implementer(IPrincipal)
@attrs.frozen(slots=True)
class Principal:
    """See :class:`~lorrainemail.interfaces.IPrincipal`."""

    account: Account
    home: IMailHome = attrs.field(repr=False)
    mechanism: str = ""


@implementer(IUsernamePassword)
@attrs.frozen(slots=True)
class Login:
    """The credentials of one attempt: name and password as sent, and the session they came by."""

    username: bytes = attrs.field(repr=False)
    password: bytes = attrs.field(repr=False)
    session: Session = _NOWHERE

    def checkPassword(self, password: bytes) -> bool:
        """Of Twisted's interface; passwords are compared by their hashes only, so it is never true."""
        return False


@implementer(ICredentialsChecker)
class Checker:
    """Proves a :class:`Login` (or any other ``IUsernamePassword``); the avatar id is its address."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(
        self, tables: ITableService, passwords: IPasswords, throttle: Throttle, clock: IReactorTime
    ) -> None:
        self._tables = tables
        self._passwords = passwords
        self._throttle = throttle
        self._clock = clock

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._prove(credentials))

    async def _prove(self, credentials: Any) -> bytes:
        session: Session = getattr(credentials, "session", _NOWHERE)
        name = prepare_name(credentials.username)
        # All that cannot be a name shares one record; it is no account's.
        folded = fold_local(name) if name is not None else ""
        network = network_key(session.peer)
        delay = self._throttle.wait(network, folded)
        if delay:
            await deferLater(self._clock, delay)
        account = None if name is None else await later(self._tables.current().login(name))
        usable = account if account is not None and account.enabled else None
        good = await self._passwords.check(usable, credentials.password, session.peer)
        if good and usable is not None:
            self._throttle.succeeded(network, folded)
            # Quoted where it must be, so that the realm can parse it.
            return str(usable.address).encode("utf-8")
        self._throttle.failed(network, folded, credentials.password)
        if account is None:
            reason = "no such account"
        elif not account.enabled:
            reason = "the account is disabled"
        else:
            reason = "wrong password"
        log.warn(
            "Login refused at {door} from {peer}: {reason} ({name}, session {session})",
            door=session.door,
            peer=session.peer or "a local peer",
            reason=reason,
            name=account.address.key if account is not None else "a name that is not shown",
            session=session.id,
        )
        raise UnauthorizedLogin(reason)


@implementer(IRealm)
class Realm:
    """Makes the avatar of a proven account: our principal, or Twisted's interface around it."""

    def __init__(
        self,
        tables: ITableService,
        home: Callable[[Account], IMailHome],
        adapters: Adapters,
    ) -> None:
        self._tables = tables
        self._home = home
        self._adapters = dict(adapters)

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._avatar(avatarId, mind, interfaces))

    async def _avatar(
        self, avatar_id: object, mind: object, interfaces: tuple[Any, ...]
    ) -> tuple[Any, object, Callable[[], None]]:
        if not isinstance(avatar_id, bytes):
            raise UnauthorizedLogin("anonymous logins are not offered")
        try:
            address = parse_address(avatar_id.decode("utf-8"))
        except (AddressError, UnicodeDecodeError):
            raise UnauthorizedLogin("no account's name") from None
        account = await later(self._tables.current().account(address))
        if account is None or not account.enabled:
            raise UnauthorizedLogin("the account went while it logged in")
        mechanism = mind.mechanism if isinstance(mind, Session) else ""
        principal = Principal(account, self._home(account), mechanism)
        for interface in interfaces:
            if interface is IPrincipal:
                return interface, principal, _logout
            adapter = self._adapters.get(interface)
            if adapter is not None:
                return interface, adapter(principal), _logout
        raise NotImplementedError(f"no avatar for {interfaces!r}")


def _logout() -> None:
    """Nothing outlives the avatar: the doors close what they opened."""


def make_portal(
    tables: ITableService,
    home: Callable[[Account], IMailHome],
    passwords: IPasswords,
    throttle: Throttle,
    clock: IReactorTime,
    adapters: Adapters | None = None,
) -> Portal:
    """The server's portal.

    :param home: the folders of an account (``store.home``).
    :param adapters: avatars for Twisted's own interfaces, beside our principal.
    """
    return Portal(Realm(tables, home, adapters or {}), [Checker(tables, passwords, throttle, clock)])


@implementer(IAuthenticator)
class Authenticator:
    """How a door logs somebody in."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    def authenticate(
        self, username: bytes, password: bytes, session: Session, mechanism: str = "PLAIN"
    ) -> Deferred[IPrincipal]:
        """See :class:`~lorrainemail.interfaces.IAuthenticator`."""
        return Deferred.fromCoroutine(self._authenticate(username, password, session, mechanism))

    async def _authenticate(
        self, username: bytes, password: bytes, session: Session, mechanism: str
    ) -> IPrincipal:
        mind = attrs.evolve(session, mechanism=mechanism)
        try:
            _, principal, _ = await self._portal.login(Login(username, password, session), mind, IPrincipal)
        except UnauthorizedLogin as refusal:
            _LOGINS.labels(session.door, "refused").inc()
            raise PermanentError(CREDENTIALS_INVALID, str(refusal)) from None
        except TemporaryError as failure:
            _LOGINS.labels(session.door, "temporary").inc()
            detail = failure.detail or str(failure.reply)
            log.warn(
                "A login could not be tried: {detail} (session {session})", detail=detail, session=session.id
            )
            # A failing table says 451; in an authentication that is 454 (RFC 4954 §6).
            reply = failure.reply if failure.reply.code == 454 else TEMPORARY_FAILURE
            raise TemporaryError(reply, detail) from None
        except MailError as failure:
            _LOGINS.labels(session.door, "refused").inc()
            raise PermanentError(CREDENTIALS_INVALID, failure.detail) from None
        except Exception:
            _LOGINS.labels(session.door, "temporary").inc()
            log.failure("A login failed unexpectedly (session {session})", session=session.id)
            raise TemporaryError(TEMPORARY_FAILURE, "internal error") from None
        result = cast(IPrincipal, principal)
        _LOGINS.labels(session.door, "good").inc()
        log.info(
            "{account} logged in at {door} from {peer} by {mechanism} (session {session})",
            account=result.account.address.key,
            door=session.door,
            peer=session.peer or "a local peer",
            mechanism=mechanism,
            session=session.id,
        )
        return result
