"""OAUTHBEARER (RFC 7628) and XOAUTH2, its older form: a login by a token of the operator's OAuth provider.

A :class:`~lorrainemail.sasl.portal.Method` of the one authenticator, offered where ``[oauth]`` names a
provider. Whose a token is says :mod:`lorrainemail.sasl.oauth`; the account that the client names, if any,
must be the same. A token that was good once counts as no guess. A refused client first gets the provider's
words (RFC 7628 §3.2.2), so that it can fetch a new token, then the failure.
"""

from __future__ import annotations

import json
import re
from typing import Final

import attrs
from twisted.cred.error import UnauthorizedLogin

from lorrainemail.addresses import fold_local
from lorrainemail.envelope import Session
from lorrainemail.errors import PermanentError
from lorrainemail.interfaces import Account, IChannel, IPrincipal, ITableService, later
from lorrainemail.sasl.gate import Gate
from lorrainemail.sasl.mechanisms import CANNOT_DECODE, prepare_name
from lorrainemail.sasl.portal import Admit, Proof
from lorrainemail.sasl.tokens import Rejected, Tokens

OAUTHBEARER: Final = "OAUTHBEARER"
XOAUTH2: Final = "XOAUTH2"

_SEPARATOR: Final = b"\x01"
# RFC 6750 §2.1.
_TOKEN = re.compile(rb"bearer +([A-Za-z0-9._~+/-]+=*)\Z", re.IGNORECASE)


@attrs.frozen(slots=True)
class Claim:
    """What a client says: the account it names ("" for none), and the token."""

    name: bytes
    token: bytes = attrs.field(repr=False)


def parse_claim(mechanism: str, message: bytes) -> Claim:
    """The client's one message.

    :raises ValueError: where it is malformed.
    """
    first, separator, rest = message.partition(_SEPARATOR)
    if not separator or not rest.endswith(_SEPARATOR * 2):
        raise ValueError("no key and value pairs")
    if mechanism == XOAUTH2:
        if not first.startswith(b"user="):
            raise ValueError("no user")
        name = first[5:]
    else:
        # RFC 7628 §3.1: the GS2 header; channel binding is not for this mechanism.
        match = re.match(rb"[ny],(?:a=([^,]*))?,\Z", first)
        if match is None:
            raise ValueError("no GS2 header")
        name = (match.group(1) or b"").replace(b"=2C", b",").replace(b"=3D", b"=")
    pairs = dict(pair.partition(b"=")[::2] for pair in rest[:-2].split(_SEPARATOR))
    token = _TOKEN.match(pairs.get(b"auth", b""))
    if token is None:
        raise ValueError("no bearer token")
    return Claim(name, token.group(1))


@attrs.frozen(slots=True)
class Provider:
    """What refused clients are told (RFC 7628 §3.2.2), and who knows the tokens."""

    tokens: Tokens
    discovery: str = ""
    scope: str = ""


class Bearer:
    """The method.

    :ivar provider: None where nobody logs in so; may be exchanged while running.
    """

    def __init__(self, tables: ITableService, gate: Gate, provider: Provider | None) -> None:
        self._tables = tables
        self._gate = gate
        self.provider = provider

    def names(self, channel: IChannel | None) -> tuple[str, ...]:
        return (OAUTHBEARER, XOAUTH2) if self.provider is not None else ()

    def begin(
        self, name: str, session: Session, channel: IChannel | None, admit: Admit
    ) -> BearerConversation:
        assert self.provider is not None
        return BearerConversation(self, self.provider, name, session, admit)

    async def account(self, provider: Provider, session: Session, claim: Claim) -> tuple[Account | None, str]:
        """Whose login that is, and the folded name; None (the reason is in the log) where it is nobody's."""
        asked = prepare_name(claim.name) if claim.name else ""
        folded = fold_local(asked) if asked else ""
        await self._gate.wait(session, folded)
        tables = self._tables.current()
        named = await later(tables.login(asked)) if asked else None
        try:
            owner = prepare_name((await provider.tokens.account_name(claim.token)).encode("utf-8"))
        except Rejected as rejected:
            reason = f"the token is not good: {rejected}"
            guess = None if rejected.ended else claim.token
            self._gate.refused(session, folded, guess, named, reason)
            return None, folded
        account = await later(tables.login(owner)) if owner else None
        if account is None or not account.enabled:
            self._gate.refused(session, folded, None, account)
            return None, folded
        if asked is None or (asked and (named is None or named.address.key != account.address.key)):
            self._gate.refused(session, folded, None, named, "the token is another account's")
            return None, folded
        return account, folded or account.address.key


class BearerConversation:
    """One exchange."""

    def __init__(
        self, bearer: Bearer, provider: Provider, mechanism: str, session: Session, admit: Admit
    ) -> None:
        self._bearer = bearer
        self._provider = provider
        self._mechanism = mechanism
        self._session = session
        self._admit = admit
        self._refused = False

    async def respond(self, response: bytes | None) -> bytes | IPrincipal:
        if response is None:
            return b""
        if self._refused:
            # RFC 7628 §3.2.3: whatever the client says to the provider's words, the exchange has failed.
            raise UnauthorizedLogin("the token was refused")
        try:
            claim = parse_claim(self._mechanism, response)
        except ValueError as error:
            raise PermanentError(CANNOT_DECODE, str(error)) from None
        account, name = await self._bearer.account(self._provider, self._session, claim)
        if account is None:
            self._refused = True
            return self._words()
        return await self._admit(Proof(account, self._session, self._mechanism, name))

    def _words(self) -> bytes:
        provider = self._provider
        if self._mechanism == XOAUTH2:
            words = {"status": "401", "schemes": "bearer", "scope": provider.scope}
        else:
            words = {"status": "invalid_token", "scope": provider.scope}
            if provider.discovery:
                words["openid-configuration"] = provider.discovery
        return json.dumps({key: value for key, value in words.items() if value}).encode("ascii")
