"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS as logins: who has a verifier, when the mechanism is offered.

A :class:`~lorrainemail.sasl.portal.Method` of the one authenticator. Offered only where the operator chose it
and while every account that may log in has a verifier for each of its passwords: a client that takes the
strongest mechanism announced would otherwise fail. The messages are :mod:`lorrainemail.sasl.scram`'s.

Invariant: a name that is no account's looks like one: it gets a salt that is stable (a keyed hash of the
name, the key lying in the state directory), and the same refusal at the end.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final, Literal

from twisted.cred.error import UnauthorizedLogin

from lorrainemail.addresses import fold_local
from lorrainemail.envelope import Session
from lorrainemail.errors import PermanentError
from lorrainemail.interfaces import Account, Credential, IChannel, IPrincipal, ITableService, later
from lorrainemail.sasl.credentials import is_ready_for_scram, scram_verifiers
from lorrainemail.sasl.gate import Gate
from lorrainemail.sasl.mechanisms import CANNOT_DECODE, CREDENTIALS_INVALID, prepare_name, same_name
from lorrainemail.sasl.portal import Admit, Proof
from lorrainemail.sasl.scram import ITERATIONS, NAME, NAME_PLUS, SALT_OCTETS, ClientFirst, Verifier
from lorrainemail.sasl.scram import Proof as ScramProof

#: Octets of the key that the salts of unknown names come from.
KEY_OCTETS: Final = 32


class Scram:
    """The method.

    :ivar enabled: whether the operator wants SCRAM; may be changed while running.
    :ivar secret: :data:`KEY_OCTETS`; whoever composes this gives it those that stay over restarts.
    """

    def __init__(self, tables: ITableService, gate: Gate, enabled: bool) -> None:
        self._tables = tables
        self._gate = gate
        self.enabled = enabled
        self.secret = secrets.token_bytes(KEY_OCTETS)

    def names(self, channel: IChannel | None) -> tuple[str, ...]:
        if not self.enabled or not self._tables.current().every_account(is_ready_for_scram):
            return ()
        return (NAME_PLUS, NAME) if channel is not None and channel.bindings() else (NAME,)

    def begin(self, name: str, session: Session, channel: IChannel | None, admit: Admit) -> ScramConversation:
        return ScramConversation(self, name, session, channel, admit)

    async def find(self, session: Session, username: bytes) -> tuple[Account | None, str]:
        """The account that a name means, after the wait that it costs; and the folded name."""
        name = prepare_name(username)
        folded = fold_local(name) if name is not None else ""
        await self._gate.wait(session, folded)
        account = None if name is None else await later(self._tables.current().login(name))
        return account, folded

    def told(
        self, account: Account | None, name: str
    ) -> tuple[bytes, int, list[tuple[Credential, Verifier]]]:
        """Salt and iterations to tell, and the verifiers that may be proved."""
        known = scram_verifiers(account.credentials) if account is not None else []
        if not known:
            salt = hmac.digest(self.secret, name.encode("utf-8"), hashlib.sha256)[:SALT_OCTETS]
            return salt, ITERATIONS, []
        first = known[0][1]
        usable = account is not None and account.enabled
        return first.salt, first.iterations, known if usable else []

    def refuse(self, session: Session, name: str, guess: bytes, account: Account | None) -> str:
        return self._gate.refused(session, name, guess, account)


class ScramConversation:
    """One exchange (RFC 5802 §5)."""

    def __init__(
        self, scram: Scram, mechanism: str, session: Session, channel: IChannel | None, admit: Admit
    ) -> None:
        self._scram = scram
        self._mechanism = mechanism
        self._session = session
        self._channel = channel
        self._admit = admit
        self._state: Literal["first", "final", "done"] = "first"
        self._account: Account | None = None
        self._name = ""
        self._labels: list[str] = []
        self._label = ""
        self._proof: ScramProof | None = None

    @property
    def complete(self) -> bool:
        """The last octets were the final ones: nothing but an empty response can come."""
        return self._state == "done"

    async def respond(self, response: bytes | None) -> bytes | IPrincipal:
        if response is None:
            return b""
        if self._state == "first":
            return await self._first(response)
        if self._state == "final":
            return self._final(response)
        if response:
            raise PermanentError(CANNOT_DECODE, "octets after the end of a SCRAM exchange")
        assert self._account is not None
        proof = Proof(self._account, self._session, self._mechanism, self._name, self._label)
        return await self._admit(proof)

    async def _first(self, message: bytes) -> bytes:
        try:
            first = ClientFirst.parse(message)
        except ValueError as error:
            raise PermanentError(CANNOT_DECODE, str(error)) from None
        bound = self._bound(first)
        if first.authorization and not same_name(first.authorization, first.username):
            raise PermanentError(CREDENTIALS_INVALID, "acting as somebody else is not offered")
        self._account, self._name = await self._scram.find(self._session, first.username)
        salt, iterations, known = self._scram.told(self._account, self._name)
        self._labels = [credential.label for credential, _ in known]
        verifiers = [verifier for _, verifier in known]
        self._proof = ScramProof(first, verifiers, salt, iterations, bound)
        self._state = "final"
        return self._proof.challenge

    def _bound(self, first: ClientFirst) -> bytes:
        """The channel's octets for a client that binds to it (RFC 5802 §6)."""
        channel = self._channel
        if self._mechanism != NAME_PLUS:
            if first.flag == "p":
                raise PermanentError(CANNOT_DECODE, "channel binding without -PLUS")
            if first.flag == "y" and channel is not None and channel.bindings():
                # We announced -PLUS; somebody between us took it away.
                raise PermanentError(
                    CREDENTIALS_INVALID, "the announcement of -PLUS did not reach the client"
                )
            return b""
        octets = None
        if first.flag == "p" and channel is not None:
            octets = channel.binding(first.binding)
        if octets is None:
            raise PermanentError(CREDENTIALS_INVALID, "a channel binding that does not exist here")
        return octets

    def _final(self, message: bytes) -> bytes:
        assert self._proof is not None
        try:
            proved = self._proof.check(message)
        except ValueError as error:
            raise PermanentError(CREDENTIALS_INVALID, str(error)) from None
        if proved is None:
            # Two proofs of one wrong password have nothing in common: each counts as a guess.
            raise UnauthorizedLogin(self._scram.refuse(self._session, self._name, message, self._account))
        self._state = "done"
        self._label = self._labels[proved[0]]
        return proved[1]
