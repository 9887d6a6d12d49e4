"""One SASL exchange, as a door leads it: base64 lines in, challenges or the principal out.

Owns the framing that SMTP (RFC 4954 §4), POP3 (RFC 5034 §4) and IMAP (RFC 9051 §6.2.2) share. A door asks
its authenticator for an :class:`Exchange`, awaits :meth:`~Exchange.start` and then :meth:`~Exchange.receive`
for each line of the client; octets are the next challenge (without "334 " or "+ "), a principal is the end.
What happens between is a :class:`Conversation`, one class a mechanism. Fails with
:class:`~lorrainemail.errors.PermanentError` (a reply of :data:`~lorrainemail.sasl.mechanisms.REPLIES`) or
:class:`~lorrainemail.errors.TemporaryError`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable
from typing import Protocol

from zope.interface import implementer

from lorrainemail.envelope import Session
from lorrainemail.errors import PermanentError
from lorrainemail.interfaces import IChannel, IExchange, IPrincipal
from lorrainemail.sasl.mechanisms import (
    CANCELLED,
    CANNOT_DECODE,
    MAX_LINE,
    MECHANISMS,
    TOO_LONG,
    UNKNOWN_MECHANISM,
    Mechanism,
)


class Conversation(Protocol):
    """One mechanism's part in one exchange.

    A mechanism that ends with octets for the client has an attribute ``complete``: they have been given.
    """

    def respond(self, response: bytes | None) -> Awaitable[bytes | IPrincipal]:
        """The answer to the client's octets; None is asked first where the client sent none at once."""


class IAuthenticate(Protocol):
    """Whoever proves a name and a password."""

    def authenticate(
        self, username: bytes, password: bytes, session: Session, mechanism: str = "PLAIN"
    ) -> Awaitable[IPrincipal]:
        """See :class:`~lorrainemail.interfaces.IAuthenticator`."""


class PasswordConversation:
    """PLAIN or LOGIN."""

    __slots__ = ("_authenticator", "_mechanism", "_session")

    def __init__(self, mechanism: Mechanism, session: Session, authenticator: IAuthenticate) -> None:
        self._mechanism = mechanism
        self._session = session
        self._authenticator = authenticator

    async def respond(self, response: bytes | None) -> bytes | IPrincipal:
        claim = None if response is None else self._mechanism.step(response)
        if claim is None:
            return self._mechanism.challenge()
        return await self._authenticator.authenticate(
            claim.username, claim.password, self._session, claim.mechanism
        )


@implementer(IExchange)
class Exchange:
    """See the module.

    :param initial: the initial response as it stood in the command (still base64, "=" for an empty one), or
        None where there was none.
    """

    __slots__ = ("_conversation", "_initial")

    def __init__(self, conversation: Conversation, initial: bytes | None = None) -> None:
        self._conversation = conversation
        self._initial = initial

    @property
    def complete(self) -> bool:
        """See :class:`~lorrainemail.interfaces.IExchange`."""
        return bool(getattr(self._conversation, "complete", False))

    async def start(self) -> bytes | IPrincipal:
        """The first challenge, or the principal where the initial response was enough."""
        initial, self._initial = self._initial, None
        if initial is None:
            return _framed(await self._conversation.respond(None))
        # RFC 4954 §4, RFC 5034 §4: "=" is an initial response of no octets.
        return _framed(await self._conversation.respond(b"" if initial == b"=" else _decode(initial)))

    async def receive(self, line: bytes) -> bytes | IPrincipal:
        """Take one client line (without CRLF)."""
        if line == b"*":
            raise PermanentError(CANCELLED)
        return _framed(await self._conversation.respond(_decode(line)))


class PasswordLogins:
    """The mechanisms of an authenticator that proves names and passwords, and nothing else."""

    def mechanisms(self, channel: IChannel | None = None) -> tuple[str, ...]:
        """See :class:`~lorrainemail.interfaces.IAuthenticator`."""
        return tuple(MECHANISMS)

    def exchange(
        self,
        mechanism: bytes,
        initial: bytes | None,
        session: Session,
        channel: IChannel | None = None,
    ) -> Exchange:
        """See :class:`~lorrainemail.interfaces.IAuthenticator`."""
        make = MECHANISMS.get(mechanism.decode("ascii", "replace").upper())
        if make is None:
            raise PermanentError(UNKNOWN_MECHANISM)
        return Exchange(PasswordConversation(make(), session, self), initial)

    def authenticate(
        self, username: bytes, password: bytes, session: Session, mechanism: str = "PLAIN"
    ) -> Awaitable[IPrincipal]:
        """See :class:`~lorrainemail.interfaces.IAuthenticator`."""
        raise NotImplementedError


def _framed(step: bytes | IPrincipal) -> bytes | IPrincipal:
    return base64.b64encode(step) if isinstance(step, bytes) else step


def _decode(line: bytes) -> bytes:
    """Strict base64 (RFC 4648 §4), bounded."""
    if len(line) > MAX_LINE:
        raise PermanentError(TOO_LONG)
    try:
        return base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        raise PermanentError(CANNOT_DECODE) from None
