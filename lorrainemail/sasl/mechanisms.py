"""The mechanisms that carry a password, without I/O, and the preparation of names and passwords.

Owns the octets of PLAIN (RFC 4616) and LOGIN, the replies that every mechanism may end with, and the one
normal form of names and passwords. Called by :mod:`lorrainemail.sasl.exchange`, which frames the octets for
the doors and has the :class:`Claim` proved.

Fails with :class:`~lorrainemail.errors.PermanentError`, whose reply an SMTP door may send as it stands and
the others translate. Secrets appear in no repr and no error text.
"""

from __future__ import annotations

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
#: What an exchange may end with as it stands.
REPLIES: Final = (CREDENTIALS_INVALID, CANNOT_DECODE, CANCELLED, UNKNOWN_MECHANISM, TOO_LONG)


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
    """One exchange's state."""

    name: ClassVar[str]

    def challenge(self) -> bytes:
        """The next challenge, not encoded."""

    def step(self, response: bytes) -> Claim | None:
        """Take a response; None where another challenge follows."""


class Plain:
    """RFC 4616: ``[authzid] NUL authcid NUL passwd`` in one response."""

    __slots__ = ()
    name: ClassVar[str] = "PLAIN"

    def challenge(self) -> bytes:
        return b""

    def step(self, response: bytes) -> Claim | None:
        parts = response.split(b"\0")
        # RFC 4616 §2: exactly two NULs, and neither name nor password may be empty.
        if len(parts) != 3 or not parts[1] or not parts[2]:
            raise PermanentError(CANNOT_DECODE, "malformed PLAIN message")
        authorization, username, password = parts
        if authorization and not same_name(authorization, username):
            raise PermanentError(CREDENTIALS_INVALID, "acting as somebody else is not offered")
        return Claim(username, password, self.name)


class Login:
    """LOGIN, as old clients speak it (draft-murchison-sasl-login): name, then password."""

    __slots__ = ("_username",)
    name: ClassVar[str] = "LOGIN"

    def __init__(self) -> None:
        self._username: bytes | None = None

    def challenge(self) -> bytes:
        return b"Username:" if self._username is None else b"Password:"

    def step(self, response: bytes) -> Claim | None:
        if self._username is None:
            # (Also where it is an initial response, as common clients send it.)
            # Some clients end the name with a NUL, as the draft once showed it.
            self._username = response.removesuffix(b"\0")
            return None
        return Claim(self._username, response.removesuffix(b"\0"), self.name)


def same_name(one: bytes, other: bytes) -> bool:
    """Whether two login names, as sent, mean the same."""
    first, second = prepare_name(one), prepare_name(other)
    return first is not None and second is not None and fold_local(first) == fold_local(second)


#: The mechanisms that carry a password, in the order in which they are announced.
MECHANISMS: Final[dict[str, Callable[[], Mechanism]]] = {"PLAIN": Plain, "LOGIN": Login}
