"""An ACME client (RFC 8555): the requests that an order is made of, each signed, each bounded.

Used by :mod:`lorrainemail.certs.order`. What the server says is not trusted: its objects are read field by
field, its addresses must be https, its refusals become :class:`AcmeError` with its own words, cut short.
Nothing is kept but the directory, a few nonces and the account's address.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import attrs
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import AuthorityKeyIdentifier as KeyIdentifier
from cryptography.x509 import Certificate, ExtensionNotFound

from lorrainemail.certs import jose
from lorrainemail.certs.fetch import Fetcher, FetchError, Response

_JOSE: Final = "application/jose+json"
_PROBLEM: Final = "urn:ietf:params:acme:error:"
#: Times that a request is made anew because its nonce was not taken (RFC 8555 §6.5).
NONCE_TRIES: Final = 4
#: Nonces kept for later requests.
MAX_NONCES: Final = 8
#: Authorizations in an order; we ask for fewer names than that.
MAX_AUTHORIZATIONS: Final = 200
#: Characters of a server's words that are kept.
MAX_WORDS: Final = 500
#: Bounds on what a server may have us wait, in seconds.
LEAST_WAIT: Final = 1.0
MOST_WAIT: Final = 7 * 86400.0


class AcmeError(Exception):
    """The authority said no, or said nothing that can be used.

    :ivar kind: the last part of its error's name ("rateLimited", "unauthorized", ...), "" for none.
    :ivar wait: seconds after which it wants to be asked again, None where it did not say.
    """

    def __init__(self, words: str, kind: str = "", wait: float | None = None) -> None:
        super().__init__(words)
        self.kind = kind
        self.wait = wait


@attrs.frozen(slots=True)
class Credentials:
    """A known customer's: the key's id and the key (base64url)."""

    identity: str
    secret: str = attrs.field(repr=False)


@attrs.frozen(slots=True)
class Challenge:
    """One way to prove a name."""

    kind: str
    url: str
    token: str


@attrs.frozen(slots=True)
class Authorization:
    """What is asked to prove one name.

    :ivar reason: why it became invalid.
    """

    name: str
    status: str
    challenges: tuple[Challenge, ...]
    reason: str = ""


@attrs.frozen(slots=True)
class Order:
    """An order as it stands."""

    url: str
    status: str
    authorizations: tuple[str, ...]
    finalize: str
    certificate: str = ""
    reason: str = ""
    wait: float | None = None


@attrs.frozen(slots=True)
class Suggestion:
    """When the authority would have a certificate renewed (RFC 9773 §4.2).

    :ivar start: of the window, seconds of the wall clock; ``again`` seconds until it wants to be asked anew.
    """

    start: float
    end: float
    again: float
    explanation: str = ""


class AcmeClient:
    """Speaks with one directory in the name of one account.

    :param directory: its https address.
    :param key: the account's.
    :param account: the account's address, "" where it is to be found out.
    """

    def __init__(
        self, fetcher: Fetcher, directory: str, key: ec.EllipticCurvePrivateKey, account: str = ""
    ) -> None:
        self._fetcher = fetcher
        self._address = directory
        self._directory: dict[str, Any] = {}
        self._nonces: list[str] = []
        self.key = key
        self.account = account

    # -- the account -----------------------------------------------------------------------------------

    async def register(self, contact: Sequence[str], credentials: Credentials | None) -> str:
        """The account's address; it is made where there is none yet (RFC 8555 §7.3)."""
        directory = await self.directory()
        url = _text(directory, "newAccount")
        wanted: dict[str, Any] = {"termsOfServiceAgreed": True}
        if contact:
            wanted["contact"] = [f"mailto:{address}" for address in contact]
        meta = directory.get("meta")
        if credentials is not None:
            try:
                secret = jose.unb64(credentials.secret)
            except ValueError:
                raise AcmeError("the key in the credentials file is no base64url") from None
            wanted["externalAccountBinding"] = jose.bound(self.key, url, credentials.identity, secret)
        elif isinstance(meta, dict) and meta.get("externalAccountRequired") is True:
            raise AcmeError("the authority wants a known customer: give [acme] credentials")
        self.account = ""
        response = await self._post(url, wanted)
        location = response.fields.get("location", "")
        if not location:
            raise AcmeError("the authority gave the account no address")
        self.account = location
        return location

    # -- an order --------------------------------------------------------------------------------------

    async def new_order(self, names: Sequence[str], replaces: str = "") -> Order:
        """RFC 8555 §7.4.

        :param replaces: the id of the certificate that it follows (RFC 9773 §5), where the server knows of
            it.
        """
        directory = await self.directory()
        wanted: dict[str, Any] = {"identifiers": [{"type": "dns", "value": name} for name in names]}
        if replaces and "renewalInfo" in directory:
            wanted["replaces"] = replaces
        response = await self._post(_text(directory, "newOrder"), wanted)
        return _order(response, response.fields.get("location", ""))

    async def order(self, url: str) -> Order:
        return _order(await self._post(url, None), url)

    async def authorization(self, url: str) -> tuple[Authorization, float | None]:
        """An authorization, and how long it wants us to wait for a change."""
        response = await self._post(url, None)
        data = _object(response)
        identifier = data.get("identifier")
        challenges = data.get("challenges")
        if not isinstance(identifier, dict) or not isinstance(challenges, list):
            raise AcmeError("the authority sent an authorization that cannot be read")
        known = [one for one in challenges if isinstance(one, dict)]
        found = tuple(
            Challenge(_text(one, "type"), _text(one, "url"), _token(one)) for one in known if one.get("token")
        )
        reason = next((words for one in known if (words := _reason(one.get("error")))), "")
        return Authorization(_text(identifier, "value"), _text(data, "status"), found, reason), _wait(
            response
        )

    async def ready(self, challenge: Challenge) -> None:
        """The answer is in place (RFC 8555 §7.5.1)."""
        await self._post(challenge.url, {})

    async def finalize(self, order: Order, request: bytes) -> Order:
        """Hand in the certificate request, DER (RFC 8555 §7.4)."""
        return _order(await self._post(order.finalize, {"csr": jose.b64(request)}), order.url)

    async def certificate(self, url: str) -> bytes:
        """The chain, PEM."""
        return (await self._post(url, None)).body

    async def revoke(self, certificate: bytes) -> None:
        """RFC 8555 §7.6; the certificate in DER."""
        directory = await self.directory()
        await self._post(_text(directory, "revokeCert"), {"certificate": jose.b64(certificate)})

    # -- when to renew ---------------------------------------------------------------------------------

    async def suggestion(self, certificate: Certificate, now: float) -> Suggestion | None:
        """When the authority would have it renewed; None where it has no such service."""
        base = (await self.directory()).get("renewalInfo")
        identity = certificate_id(certificate)
        if not isinstance(base, str) or not identity:
            return None
        response = await self._fetch("GET", f"{base.rstrip('/')}/{identity}")
        if response.status != 200:
            raise _refused(response)
        data = _object(response)
        window = data.get("suggestedWindow")
        if not isinstance(window, dict):
            raise AcmeError("the authority sent no window for the renewal")
        start, end = _instant(window.get("start")), _instant(window.get("end"))
        if end <= start:
            raise AcmeError("the authority's window for the renewal is empty")
        words = data.get("explanationURL")
        again = _wait(response, now) or 6 * 3600.0
        return Suggestion(start, end, again, words[:MAX_WORDS] if isinstance(words, str) else "")

    # -- requests --------------------------------------------------------------------------------------

    async def directory(self) -> dict[str, Any]:
        if not self._directory:
            response = await self._fetch("GET", self._address)
            if response.status != 200:
                raise _refused(response)
            self._directory = _object(response)
        return self._directory

    async def _post(self, url: str, payload: Any) -> Response:
        """A signed request; its nonce is made anew where the server does not take it."""
        for _ in range(NONCE_TRIES):
            nonce = await self._nonce()
            body = jose.signed(self.key, url, payload, nonce, self.account)
            response = await self._fetch("POST", url, body, _JOSE)
            if 200 <= response.status < 300:
                return response
            refused = _refused(response)
            if refused.kind != "badNonce":
                raise refused
        raise refused

    async def _nonce(self) -> str:
        if self._nonces:
            return self._nonces.pop()
        directory = await self.directory()
        response = await self._fetch("HEAD", _text(directory, "newNonce"))
        if not self._nonces:
            raise AcmeError(f"the authority gave no nonce (status {response.status})")
        return self._nonces.pop()

    async def _fetch(self, method: str, url: str, body: bytes | None = None, kind: str = "") -> Response:
        try:
            response = await self._fetcher.request(method, url, body, kind)
        except FetchError as error:
            raise AcmeError(str(error)) from error
        nonce = response.fields.get("replay-nonce", "")
        if nonce and len(nonce) <= 1024 and len(self._nonces) < MAX_NONCES:
            self._nonces.append(nonce)
        return response


def certificate_id(certificate: Certificate) -> str:
    """How ARI names a certificate (RFC 9773 §4.1), "" where it has no key identifier of its authority."""
    try:
        identifier = certificate.extensions.get_extension_for_class(KeyIdentifier).value.key_identifier
    except (ExtensionNotFound, ValueError):
        return ""
    if identifier is None:
        return ""
    number = certificate.serial_number
    # As DER has it: a first octet of 128 and more has a zero in front.
    octets = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return f"{jose.b64(identifier)}.{jose.b64(octets)}"


# -- reading what the server says ------------------------------------------------------------------------


def _object(response: Response) -> dict[str, Any]:
    try:
        data = json.loads(response.body)
    except (ValueError, RecursionError):
        raise AcmeError("the authority sent something that is no JSON") from None
    if not isinstance(data, dict):
        raise AcmeError("the authority sent something else than an object")
    return data


def _text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise AcmeError(f'the authority sent no "{name}"')
    return value


def _token(data: dict[str, Any]) -> str:
    """RFC 8555 §8.1: base64url, as it becomes part of a path."""
    token = _text(data, "token")
    if not token.replace("-", "").replace("_", "").isalnum() or not token.isascii() or len(token) > 1024:
        raise AcmeError("the authority sent a token that is none")
    return token


def _order(response: Response, url: str) -> Order:
    data = _object(response)
    addresses = data.get("authorizations")
    if not isinstance(addresses, list) or not all(isinstance(one, str) for one in addresses):
        raise AcmeError("the authority sent an order without authorizations")
    if len(addresses) > MAX_AUTHORIZATIONS or not url:
        raise AcmeError("the authority sent an order that cannot be followed")
    certificate = data.get("certificate")
    return Order(
        url,
        _text(data, "status"),
        tuple(addresses),
        _text(data, "finalize"),
        certificate if isinstance(certificate, str) else "",
        _reason(data.get("error")),
        _wait(response),
    )


def _reason(problem: Any) -> str:
    """The words of a problem document (RFC 8555 §6.7)."""
    if not isinstance(problem, dict):
        return ""
    words = [str(problem.get("detail") or problem.get("type") or "")]
    for inner in problem.get("subproblems") or ():
        if isinstance(inner, dict):
            name = inner.get("identifier")
            value = f"{name.get('value')}: " if isinstance(name, dict) else ""
            words.append(f"{value}{inner.get('detail') or inner.get('type')}")
    text = "; ".join(word for word in words if word)
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_WORDS]


def _refused(response: Response) -> AcmeError:
    try:
        problem = _object(response)
    except AcmeError:
        problem = {}
    kind = str(problem.get("type", "")).removeprefix(_PROBLEM)[:64]
    words = _reason(problem) or f"status {response.status}"
    return AcmeError(f"the authority said: {words}", kind, _wait(response))


def _wait(response: Response, now: float = 0.0) -> float | None:
    """Retry-After (RFC 9110 §10.2.3), within bounds."""
    text = response.fields.get("retry-after", "").strip()
    if text.isdigit() and len(text) < 10:
        seconds = float(text)
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
        if not now:
            return None
    return min(max(seconds, LEAST_WAIT), MOST_WAIT)


def _instant(value: Any) -> float:
    """A date of RFC 3339."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise AcmeError("the authority sent a date that cannot be read") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
