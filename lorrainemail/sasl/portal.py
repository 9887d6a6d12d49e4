"""The one login of the server: a twisted.cred portal, its realm and its checker.

Owns who may log in. :func:`make_portal` composes the portal from the tables, the passwords, the gate and the
store's homes; every door logs in through :class:`Authenticator`, which leads the exchanges of all mechanisms
(a :class:`Method` each for those that carry no password), asks the portal and turns what it says into the
failures of :mod:`lorrainemail.errors`: :class:`PermanentError` (535 5.7.8) for whatever is
wrong with name or password, :class:`TemporaryError` (454 4.7.0) for what may pass.

Invariants: unknown names, disabled accounts and wrong passwords look the same from outside, in words and in
work; the reason is in the log alone. No password, and no name that is not an account's (people type passwords
there), reaches the log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

import attrs
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import Attribute, Interface, implementer

from lorrainemail.addresses import AddressError, fold_local, parse_address
from lorrainemail.envelope import Session
from lorrainemail.errors import MailError, PermanentError, TemporaryError
from lorrainemail.interfaces import (
    Account,
    Credential,
    IAuthenticator,
    IChannel,
    IMailHome,
    IPasswords,
    IPrincipal,
    ITableService,
    later,
)
from lorrainemail.ops.metrics import Counter
from lorrainemail.sasl.exchange import Conversation, Exchange, PasswordLogins
from lorrainemail.sasl.gate import Gate
from lorrainemail.sasl.mechanisms import (
    CREDENTIALS_INVALID,
    REPLIES,
    TEMPORARY_FAILURE,
    prepare_name,
)

log = Logger(namespace="lorrainemail.sasl")

_LOGINS = Counter("lorrainemail_logins", "Logins tried, by their end", ["door", "result"])

#: {Twisted interface: what makes its avatar of a principal}; each adapter lives in its door.
Adapters = Mapping[type[Interface], Callable[[IPrincipal], object]]

T = TypeVar("T")

#: Told of each password that was proved: the account, the credential, the password as sent.
Proved = Callable[[Account, Credential, bytes], None]

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
    mechanism: str = "PLAIN"

    def checkPassword(self, password: bytes) -> bool:
        """Of Twisted's interface; passwords are compared by their hashes only, so it is never true."""
        return False


class IProof(ICredentials):
    """Credentials that a mechanism has checked already."""

    account: Account = Attribute("whose")
    session: Session = Attribute("where they came by")


@implementer(IProof)
@attrs.frozen(slots=True)
class Proof:
    """An account that proved itself without a password of its own passing by.

    :ivar name: the folded login name that it gave.
    :ivar label: of the password that was proved, "" where that was none.
    """

    account: Account
    session: Session
    mechanism: str
    name: str
    label: str = ""


@implementer(ICredentialsChecker)
class Checker:
    """Proves a :class:`Login` (or any other ``IUsernamePassword``), and takes a :class:`Proof`; the avatar id
    is the account's address.

    :param proved: told of each password that was right.
    """

    credentialInterfaces = (IUsernamePassword, IProof)

    def __init__(
        self, tables: ITableService, passwords: IPasswords, gate: Gate, proved: Proved | None = None
    ) -> None:
        self._tables = tables
        self._passwords = passwords
        self._gate = gate
        self._proved = proved

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._prove(credentials))

    async def _prove(self, credentials: Any) -> bytes:
        if isinstance(credentials, Proof):
            proof = credentials
            self._gate.passed(proof.session, proof.name, proof.account, proof.mechanism, proof.label)
            return _avatar_id(proof.account)
        session: Session = getattr(credentials, "session", _NOWHERE)
        name = prepare_name(credentials.username)
        # All that cannot be a name shares one record; it is no account's.
        folded = fold_local(name) if name is not None else ""
        await self._gate.wait(session, folded)
        account = None if name is None else await later(self._tables.current().login(name))
        usable = account if account is not None and account.enabled else None
        password: bytes = credentials.password
        credential = await self._passwords.check(usable, password, session.peer)
        if credential is None or usable is None:
            raise UnauthorizedLogin(self._gate.refused(session, folded, password, account))
        mechanism = getattr(credentials, "mechanism", "")
        self._gate.passed(session, folded, usable, mechanism, credential.label)
        if self._proved is not None:
            self._proved(usable, credential, password)
        return _avatar_id(usable)


def _avatar_id(account: Account) -> bytes:
    # Quoted where it must be, so that the realm can parse it.
    return str(account.address).encode("utf-8")


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
    gate: Gate,
    adapters: Adapters | None = None,
    proved: Proved | None = None,
) -> Portal:
    """The server's portal.

    :param home: the folders of an account (``store.home``).
    :param adapters: avatars for Twisted's own interfaces, beside our principal.
    :param proved: told of each password that was right.
    """
    return Portal(Realm(tables, home, adapters or {}), [Checker(tables, passwords, gate, proved)])


#: Makes the principal of an account that proved itself.
Admit = Callable[[Proof], Awaitable[IPrincipal]]


class Method(Protocol):
    """Mechanisms of one kind that carry no password."""

    def names(self, channel: IChannel | None) -> tuple[str, ...]:
        """Those that work now."""

    def begin(self, name: str, session: Session, channel: IChannel | None, admit: Admit) -> Conversation:
        """One exchange by one of :meth:`names`."""


@implementer(IAuthenticator)
class Authenticator(PasswordLogins):
    """How a door logs somebody in.

    :param methods: what is offered beside passwords, strongest first.
    """

    def __init__(self, portal: Portal, methods: Sequence[Method] = ()) -> None:
        self._portal = portal
        self._methods = tuple(methods)

    def mechanisms(self, channel: IChannel | None = None) -> tuple[str, ...]:
        """See :class:`~lorrainemail.interfaces.IAuthenticator`."""
        names = [name for method in self._methods for name in method.names(channel)]
        return (*names, *super().mechanisms(channel))

    def exchange(
        self,
        mechanism: bytes,
        initial: bytes | None,
        session: Session,
        channel: IChannel | None = None,
    ) -> Exchange:
        """See :class:`~lorrainemail.interfaces.IAuthenticator`."""
        name = mechanism.decode("ascii", "replace").upper()
        for method in self._methods:
            if name in method.names(channel):
                conversation = method.begin(name, session, channel, self._admit)
                return Exchange(_Guarded(conversation, session), initial)
        return super().exchange(mechanism, initial, session, channel)

    def authenticate(
        self, username: bytes, password: bytes, session: Session, mechanism: str = "PLAIN"
    ) -> Deferred[IPrincipal]:
        """See :class:`~lorrainemail.interfaces.IAuthenticator`."""
        login = Login(username, password, session, mechanism)
        return Deferred.fromCoroutine(guarded(self._log_in(login, session, mechanism), session))

    async def _admit(self, proof: Proof) -> IPrincipal:
        return await self._log_in(proof, proof.session, proof.mechanism)

    async def _log_in(self, credentials: Login | Proof, session: Session, mechanism: str) -> IPrincipal:
        mind = attrs.evolve(session, mechanism=mechanism)
        _, principal, _ = await self._portal.login(credentials, mind, IPrincipal)
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


class _Guarded:
    """A conversation that fails in no other way than a login may."""

    __slots__ = ("_conversation", "_session")

    def __init__(self, conversation: Conversation, session: Session) -> None:
        self._conversation = conversation
        self._session = session

    @property
    def complete(self) -> bool:
        return bool(getattr(self._conversation, "complete", False))

    def respond(self, response: bytes | None) -> Awaitable[bytes | IPrincipal]:
        return guarded(self._conversation.respond(response), self._session)


async def guarded(work: Awaitable[T], session: Session) -> T:
    """The result of a login's work; whatever it fails with becomes one of the failures that a door knows."""
    try:
        return await work
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
        reply = failure.reply if failure.reply in REPLIES else CREDENTIALS_INVALID
        raise PermanentError(reply, failure.detail) from None
    except Exception:
        _LOGINS.labels(session.door, "temporary").inc()
        log.failure("A login failed unexpectedly (session {session})", session=session.id)
        raise TemporaryError(TEMPORARY_FAILURE, "internal error") from None
