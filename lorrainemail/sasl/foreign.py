"""Hashes that other servers made of passwords: verified here so that accounts can move, never written.

Called by :mod:`lorrainemail.sasl.credentials` (in a thread), which replaces each by our own at its next
login. Known by Dovecot's scheme names, with their endings ``.hex`` and ``.b64``:

- crypt(3): SHA512-CRYPT, SHA256-CRYPT, BLF-CRYPT (bcrypt), MD5-CRYPT, CRYPT of any kind, as in
  ``/etc/shadow`` (yescrypt too). The system's libcrypt computes them without holding the interpreter; where
  there is none, or it lacks the kind, libpass and bcrypt do (``pip install 'lorrainemail[migrate]'``);
- LDAP's and simple ones: SSHA, SSHA256, SSHA512, SMD5 and the unsalted SHA, SHA256, SHA512, PLAIN-MD5,
  LDAP-MD5, PLAIN; ARGON2I; Dovecot's PBKDF2.

:func:`fault` says why a credential cannot be verified. Nothing here raises for a malformed value: it matches
nothing.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ctypes
import hashlib
import hmac
import re
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from lorrainemail.interfaces import Credential

#: Rounds that a value may ask for; more would hold a thread for seconds.
MAX_ROUNDS: Final = 2_000_000
MAX_BCRYPT_COST: Final = 15
#: Longest value of any scheme here.
MAX_VALUE: Final = 1024
#: Octets for crypt_r to work in: glibc's own wants 131,232, libxcrypt 32,768.
_CRYPT_DATA: Final = 256 * 1024

_DIGESTS: Final = {
    # scheme: hash, salted
    "sha": ("sha1", False),
    "sha1": ("sha1", False),
    "ssha": ("sha1", True),
    "sha256": ("sha256", False),
    "ssha256": ("sha256", True),
    "sha512": ("sha512", False),
    "ssha512": ("sha512", True),
    "ldap-md5": ("md5", False),
    "plain-md5": ("md5", False),
    "smd5": ("md5", True),
}
_PLAIN: Final = frozenset({"plain", "clear", "cleartext"})
_CRYPT: Final = frozenset(
    {"crypt", "sha512-crypt", "sha256-crypt", "md5-crypt", "md5", "blf-crypt", "bcrypt", "des-crypt"}
)
#: Beginning of a crypt(3) value → kind, and a setting to try whether the system knows it.
_KINDS: Final = (
    (re.compile(r"\$6\$"), "sha512-crypt", b"$6$rounds=1000$abcdefgh"),
    (re.compile(r"\$5\$"), "sha256-crypt", b"$5$rounds=1000$abcdefgh"),
    (re.compile(r"\$2[abxy]\$"), "bcrypt", b"$2b$04$abcdefghijklmnopqrstuu"),
    (re.compile(r"\$1\$"), "md5-crypt", b"$1$abcdefgh"),
    (re.compile(r"\$(y|gy|7)\$"), "yescrypt", b"$y$j75$abcdefgh"),
    (re.compile(r"[./0-9A-Za-z]{13}\Z"), "des-crypt", b"ab"),
)
_ROUNDS = re.compile(r"\$[56]\$rounds=(\d{1,12})\$")
_COST = re.compile(r"\$2[abxy]\$(\d\d)\$")

EXTRA: Final = "pip install 'lorrainemail[migrate]'"


def fault(credential: Credential) -> tuple[str, str] | None:
    """Why a password cannot be checked against that, and how to mend it; None where it can."""
    scheme, value = credential.scheme.partition(".")[0], credential.value
    again = "set a new password"
    if len(value) > MAX_VALUE:
        return "its hash is too long to be one", again
    if scheme in _PLAIN or scheme in _DIGESTS or scheme == "pbkdf2":
        return None
    if scheme in ("argon2i", "argon2d") or value.startswith(("$argon2i$", "$argon2d$")):
        return None
    if scheme not in _CRYPT:
        return f'its scheme "{credential.scheme}" is unknown', again
    kind = _kind(value)
    if kind is None:
        return f'its hash is none of the kinds of "{credential.scheme}" that are known', again
    if _too_dear(value):
        return "its hash asks for too many rounds", again
    if _verifier(kind) is None:
        if kind == "yescrypt":
            return "this system's libcrypt does not know yescrypt", again
        return f"this system's libcrypt does not know {kind}", EXTRA
    return None


def is_locked(credential: Credential) -> bool:
    """Whether it says, as in ``/etc/shadow``, that there is no password."""
    return credential.scheme == "crypt" and credential.value[:1] in ("", "!", "*", "x")


def matches(credential: Credential, password: bytes) -> bool:
    """Whether the prepared password is that credential's."""
    if is_locked(credential) or fault(credential) is not None:
        return False
    scheme, _, encoding = credential.scheme.partition(".")
    value = credential.value
    if scheme in _PLAIN:
        return hmac.compare_digest(_plain(value, encoding), password)
    if scheme == "pbkdf2":
        return _matches_pbkdf2(value, password)
    if value.startswith("$argon2"):
        return _matches_argon2(value, password)
    if scheme in _DIGESTS:
        name, salted = _DIGESTS[scheme]
        return _matches_digest(name, salted, _decoded(name, salted, value, encoding), password)
    kind = _kind(value)
    verify = None if kind is None else _verifier(kind)
    if verify is None:
        return False
    try:
        return verify(value.encode("ascii"), password)
    except ValueError:
        return False


def _plain(value: str, encoding: str) -> bytes:
    return _decoded("", True, value, encoding) if encoding else value.encode("utf-8")


def _decoded(name: str, salted: bool, value: str, encoding: str) -> bytes:
    """Hexadecimal where it says so, or is as long as an unsalted digest is then; else base64."""
    with contextlib.suppress(ValueError, binascii.Error):
        octets = value.encode("ascii")
        as_hex = not salted and len(value) == 2 * hashlib.new(name).digest_size
        if encoding == "hex" or (not encoding and as_hex):
            return binascii.unhexlify(octets)
        return base64.b64decode(octets, validate=True)
    return b""


def _matches_digest(name: str, salted: bool, stored: bytes, password: bytes) -> bool:
    size = hashlib.new(name).digest_size
    digest, salt = stored[:size], stored[size:]
    if len(digest) != size or bool(salt) != salted:
        return False
    return hmac.compare_digest(hashlib.new(name, password + salt).digest(), digest)


def _matches_pbkdf2(value: str, password: bytes) -> bool:
    """Dovecot's ``$1$salt$rounds$hexadecimal``, by SHA-1."""
    parts = value.split("$")
    if len(parts) != 5 or parts[0] or parts[1] != "1" or not re.fullmatch(r"[0-9]{1,7}", parts[3]):
        return False
    rounds = int(parts[3])
    if not 1 <= rounds <= MAX_ROUNDS:
        return False
    made = hashlib.pbkdf2_hmac("sha1", password, parts[2].encode("utf-8"), rounds, 20).hex()
    return hmac.compare_digest(made.encode(), parts[4].lower().encode("utf-8"))


def _matches_argon2(value: str, password: bytes) -> bool:
    import argon2
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return argon2.PasswordHasher().verify(value, password)
    except (VerificationError, InvalidHashError, ValueError):
        return False


# -- crypt(3) --------------------------------------------------------------------------------------------


def _kind(value: str) -> str | None:
    return next((kind for pattern, kind, _ in _KINDS if pattern.match(value)), None)


def _too_dear(value: str) -> bool:
    rounds, cost = _ROUNDS.match(value), _COST.match(value)
    if rounds is not None:
        return int(rounds.group(1)) > MAX_ROUNDS
    return cost is not None and int(cost.group(1)) > MAX_BCRYPT_COST


#: Whether a password (second) has a value (first). ValueError for a value that is malformed.
Verify = Callable[[bytes, bytes], bool]


@cache
def _verifier(kind: str) -> Verify | None:
    """Who verifies that kind on this machine."""
    setting = next(setting for _, name, setting in _KINDS if name == kind)
    made = _crypt(b"x", setting)
    if made is not None and made.startswith(setting[:3] if setting[:1] == b"$" else setting):
        return _matches_crypt
    if kind == "bcrypt":
        with contextlib.suppress(ImportError):
            import bcrypt

            # It looks at 72 octets, like every bcrypt.
            return lambda value, password: bool(bcrypt.checkpw(password[:72], value))
        return None
    try:
        from passlib import hash as handlers  # type: ignore[import-untyped]
    except ImportError:
        return None
    handler: Any = getattr(handlers, kind.replace("-", "_"), None)
    return None if handler is None else lambda value, password: bool(handler.verify(password, value.decode()))


def _matches_crypt(value: bytes, password: bytes) -> bool:
    made = _crypt(password, value)
    return made is not None and hmac.compare_digest(made, value)


def _crypt(password: bytes, setting: bytes) -> bytes | None:
    """crypt_r(3) of the system; None where it refuses. ctypes lets the interpreter go meanwhile."""
    function = _crypt_r()
    if function is None:
        return None
    made: bytes | None = function(password, setting, ctypes.create_string_buffer(_CRYPT_DATA))
    # libxcrypt says "*0" or "*1" for a failure.
    return None if made is None or made.startswith(b"*") else made


@cache
def _crypt_r() -> Any:
    for name in ("libcrypt.so.1", "libcrypt.so.2", "libcrypt.so"):
        try:
            function = ctypes.CDLL(name).crypt_r
        except (OSError, AttributeError):
            continue
        function.restype = ctypes.c_char_p
        function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p)
        return function
    return None
