"""SASL mechanisms as small objects without I/O, and the preparation of names and passwords.

Owns the octets of PLAIN (RFC 4616) and LOGIN, their base64 framing as SMTP (RFC 4954), POP3 (RFC 5034) and
IMAP (RFC 9051 §6.2.2) share it, and the one normal form of passwords. Called by the doors: an
:class:`Exchange` is made from the mechanism's name and the initial response, is asked for its
:meth:`~Exchange.start`, then fed one client line at a time; each call gives the next challenge line or the
:class:`Claim` that the door hands to the authenticator.

Fails with :class:`~lorrainemail.errors.PermanentError`, whose reply an SMTP door may send as it stands and
the others translate. Secrets appear in no repr and no error text.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata
from collections.abc import Callable
from typing import ClassVar, Final, Protocol

import attrs

from lorrainemail.addresses import fold_local
from lorrainemail.errors import PermanentError, Reply

#: RFC 4954 §4: the longest base64 line of an exchange, without CRLF.
MAX_LINE: Final = 12288
#: A login name in octets: local part, "@" and domain (RFC 5321 §4.5.3.1); RFC 4616 §2 asks for 255 at least.
MAX_NAME: Final = 320
#: A password in octets, after preparation; RFC 4616 §2 asks for 255 at least.
MAX_PASSWORD: Final = 1024

#: RFC 4954 §6.
CREDENTIALS_INVALID: Final = Reply(535, "5.7.8", "Authentication credentials invalid")
TEMPORARY_FAILURE: Final = Reply(454, "4.7.0", "Temporary authentication failure")
CANNOT_DECODE: Final = Reply(501, "5.5.2", "Cannot decode response")
#: RFC 4954 §4: the client cancelled with "*".
CANCELLED: Final = Reply(501, "5.7.0", "Authentication cancelled")
UNKNOWN_MECHANISM: Final = Reply(504, "5.5.4", "Unrecognized authentication type")
TOO_LONG: Final = Reply(500, "5.5.6", "Authentication exchange line is too long")


@attrs.frozen(slots=True)
class Claim:
    """What a client says it is: name and password as sent, and the mechanism that carried them."""

    username: bytes
    password: bytes = attrs.field(repr=False)
    mechanism: str


def prepare_name(name: bytes) -> str | None:
    """A login name as text in NFC, None where no account can have such a name."""
    text = _text(name, MAX_NAME)
    return unicodedata.normalize("NFC", text) if text else None


def prepare_password(password: bytes) -> bytes | None:
    """A password in the one form that is hashed: RFC 8265 §4.2 OpaqueString.

    Spaces beyond ASCII become SPACE, then NFC; control characters, an empty string and what is no UTF-8 are
    no password: None.
    """
    text = _text(password, MAX_PASSWORD)
    if not text:
        return None
    if not text.isascii():
        text = "".join(" " if unicodedata.category(c) == "Zs" else c for c in text)
        text = unicodedata.normalize("NFC", text)
    prepared = text.encode("utf-8")
    return prepared if len(prepared) <= MAX_PASSWORD else None


def _text(octets: bytes, limit: int) -> str:
    """The octets as UTF-8 without control characters, "" where they are not that or too long."""
    if len(octets) > limit:
        return ""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return "" if any(unicodedata.category(c) == "Cc" for c in text) else text


class Mechanism(Protocol):
    """One exchange's state. ``client_first``: the client speaks first, so an initial response may stand in
    the command."""

    name: ClassVar[str]
    client_first: ClassVar[bool]

    def challenge(self) -> bytes:
        """The next challenge, not encoded."""

    def step(self, response: bytes) -> Claim | None:
        """Take a response; None where another challenge follows."""


class Plain:
    """RFC 4616: ``[authzid] NUL authcid NUL passwd`` in one response."""

    __slots__ = ()
    name: ClassVar[str] = "PLAIN"
    client_first: ClassVar[bool] = True

    def challenge(self) -> bytes:
        return b""

    def step(self, response: bytes) -> Claim | None:
        parts = response.split(b"\0")
        # RFC 4616 §2: exactly two NULs, and neither name nor password may be empty.
        if len(parts) != 3 or not parts[1] or not parts[2]:
            raise PermanentError(CANNOT_DECODE, "malformed PLAIN message")
        authorization, username, password = parts
        if authorization and not _same_name(authorization, username):
            raise PermanentError(CREDENTIALS_INVALID, "acting as somebody else is not offered")
        return Claim(username, password, self.name)


class Login:
    """LOGIN, as old clients speak it (draft-murchison-sasl-login): name, then password."""

    __slots__ = ("_username",)
    name: ClassVar[str] = "LOGIN"
    # An initial response is the user name, as common clients send it.
    client_first: ClassVar[bool] = True

    def __init__(self) -> None:
        self._username: bytes | None = None

    def challenge(self) -> bytes:
        return b"Username:" if self._username is None else b"Password:"

    def step(self, response: bytes) -> Claim | None:
        if self._username is None:
            # Some clients end the name with a NUL, as the draft once showed it.
            self._username = response.removesuffix(b"\0")
            return None
        return Claim(self._username, response.removesuffix(b"\0"), self.name)


def _same_name(one: bytes, other: bytes) -> bool:
    first, second = prepare_name(one), prepare_name(other)
    return first is not None and second is not None and fold_local(first) == fold_local(second)


#: The mechanisms that we speak, in the order in which they are announced.
MECHANISMS: Final[dict[str, Callable[[], Mechanism]]] = {"PLAIN": Plain, "LOGIN": Login}


class Exchange:
    """One SASL exchange in base64 lines.

    :param mechanism: the name as the client wrote it, any case.
    :param initial: the initial response as it stood in the command (still base64, "=" for an empty one), or
        None where there was none.
    :raises PermanentError: ``UNKNOWN_MECHANISM``.
    """

    __slots__ = ("_initial", "_mechanism")

    def __init__(self, mechanism: bytes, initial: bytes | None = None) -> None:
        make = MECHANISMS.get(mechanism.decode("ascii", "replace").upper())
        if make is None:
            raise PermanentError(UNKNOWN_MECHANISM)
        self._mechanism = make()
        self._initial = initial

    @property
    def name(self) -> str:
        """The mechanism's name in upper case."""
        return self._mechanism.name

    def start(self) -> bytes | Claim:
        """The first challenge (base64, without "334 " or "+ "), or the claim where the initial response was
        enough."""
        if self._initial is None:
            return base64.b64encode(self._mechanism.challenge())
        # RFC 4954 §4, RFC 5034 §4: "=" is an initial response of no octets.
        initial, self._initial = self._initial, None
        return self._take(b"" if initial == b"=" else _decode(initial))

    def receive(self, line: bytes) -> bytes | Claim:
        """Take one client line (without CRLF); the next challenge in base64, or the claim.

        :raises PermanentError: ``CANCELLED``, ``CANNOT_DECODE``, ``TOO_LONG``, ``CREDENTIALS_INVALID``.
        """
        if line == b"*":
            raise PermanentError(CANCELLED)
        return self._take(_decode(line))

    def _take(self, response: bytes) -> bytes | Claim:
        claim = self._mechanism.step(response)
        return base64.b64encode(self._mechanism.challenge()) if claim is None else claim


def _decode(line: bytes) -> bytes:
    """Strict base64 (RFC 4648 §4), bounded."""
    if len(line) > MAX_LINE:
        raise PermanentError(TOO_LONG)
    try:
        return base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        raise PermanentError(CANNOT_DECODE) from None
