"""The doors' access to accounts (:mod:`lorrainemail.sasl`)."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from zope.interface import Attribute, Interface

from lorrainemail.envelope import Session
from lorrainemail.interfaces.store import IMailHome
from lorrainemail.interfaces.tables import Account, Credential

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class IPrincipal(Interface):
    """Who logged in: the avatar that the one realm makes; each door adapts it to Twisted's interface."""

    account: Account = Attribute("the account")
    home: IMailHome = Attribute("its mail")
    mechanism: str = Attribute("how it was proved")


class IChannel(Interface):
    """The TLS that a login comes through, its handshake done."""

    def bindings() -> tuple[str, ...]:
        """The channel bindings that exist here (RFC 9266, RFC 5929)."""

    def binding(kind: str) -> bytes | None:
        """The octets of one, None where there is none of that kind."""

    def client_certificates() -> Sequence[Any]:
        """``cryptography.x509.Certificate``s that the client showed, its own first; maybe none.
        It has proved that it holds the first one's key; who signed them is still to be checked."""


class IExchange(Interface):
    """One SASL exchange. Both fail as :meth:`IAuthenticator.authenticate` does, and with the other replies of
    RFC 4954 §4 and §6 for what cannot be understood."""

    complete: bool = Attribute(
        "the challenge was the mechanism's last word, to which only an empty response can follow: a door "
        "whose protocol can send it along with success asks for the principal at once"
    )

    def start() -> Awaitable[bytes | IPrincipal]:
        """The first challenge in base64 (without "334 " or "+ "), or who that is."""

    def receive(line: bytes) -> Awaitable[bytes | IPrincipal]:
        """Take the client's next line, without CRLF."""


class IAuthenticator(Interface):
    """The one login of all doors, in front of the one portal."""

    def mechanisms(channel: IChannel | None = None) -> tuple[str, ...]:
        """The SASL mechanisms that truly work now for a session that may log in, strongest first.

        :param channel: its TLS, None where there is none (or not yet).
        """

    def exchange(
        mechanism: bytes, initial: bytes | None, session: Session, channel: IChannel | None = None
    ) -> IExchange:
        """Begin an exchange.

        :param mechanism: as the client wrote it, any case.
        :param initial: the initial response as it stood in the command (still base64, "=" for an empty one),
            None where there was none.
        :raises PermanentError: 504 5.5.4 where that mechanism is not offered.
        """

    def authenticate(
        username: bytes, password: bytes, session: Session, mechanism: str = "PLAIN"
    ) -> Deferred[IPrincipal]:
        """Who that is. Fails with PermanentError (535 5.7.8) for whatever is wrong with name or password,
        TemporaryError (454 4.7.0) where trying later may help; with nothing else. May take seconds: peers
        that guess are slowed. ``mechanism`` is for log and principal ("PLAIN", "LOGIN", "USER", ...)."""


class IPasswords(Interface):
    """Hashing in bounded threads, with a short cache of proven logins."""

    def check(account: Account | None, password: bytes, peer: str) -> Awaitable[Credential | None]:
        """The credential that the password is of. Constant behaviour for an unknown account (None)."""

    def hash(password: bytes) -> Deferred[Credential]:
        """A new credential."""
