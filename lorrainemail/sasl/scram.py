"""SCRAM-SHA-256 as pure octets: verifiers as they are stored, and the server's half of one exchange.

RFC 5802 is the mechanism, RFC 7677 its use with SHA-256, RFC 9266 and RFC 5929 the channels that it can be
bound to. Called by :mod:`lorrainemail.sasl.verifiers`. A stored verifier is Dovecot's
``{SCRAM-SHA-256}iterations,salt,stored key,server key``. What is malformed raises ValueError; a proof that
belongs to no verifier is None. Nothing here reads tables, waits, or keeps a password.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from collections.abc import Sequence
from typing import Final, Literal

import attrs

#: As stored with a credential.
SCHEME: Final = "scram-sha-256"
NAME: Final = "SCRAM-SHA-256"
NAME_PLUS: Final = "SCRAM-SHA-256-PLUS"
#: Rounds of new verifiers; RFC 7677 §4 asks for 4096 at least. The client pays for them at each login.
ITERATIONS: Final = 16_384
#: Of verifiers from elsewhere; more would let one row hold a thread (and its clients) for seconds.
MAX_ITERATIONS: Final = 1_000_000
SALT_OCTETS: Final = 16
MAX_SALT_OCTETS: Final = 64
NONCE_OCTETS: Final = 18
#: A client's nonce; ours is added to it.
MAX_NONCE: Final = 256
_KEY: Final = 32

# RFC 5802 §7: printable characters without ",".
_NONCE = re.compile(rb"[\x21-\x2b\x2d-\x7e]+\Z")
_BINDING = re.compile(rb"[A-Za-z0-9.-]{1,64}\Z")


@attrs.frozen(slots=True)
class Verifier:
    """What proves a password without being one (RFC 5802 §3)."""

    iterations: int
    salt: bytes
    stored_key: bytes = attrs.field(repr=False)
    server_key: bytes = attrs.field(repr=False)

    @classmethod
    def parse(cls, value: str) -> Verifier:
        """:raises ValueError: where it is none of ours or Dovecot's."""
        parts = value.split(",")
        if len(parts) != 4 or not (parts[0].isascii() and parts[0].isdigit() and len(parts[0]) <= 7):
            raise ValueError("not iterations,salt,stored key,server key")
        iterations = int(parts[0])
        salt, stored, server = (_decode(part.encode("utf-8")) for part in parts[1:])
        if not 1 <= iterations <= MAX_ITERATIONS or not 1 <= len(salt) <= MAX_SALT_OCTETS:
            raise ValueError("iterations or salt out of bounds")
        if len(stored) != _KEY or len(server) != _KEY:
            raise ValueError("a key is not of SHA-256")
        return cls(iterations, salt, stored, server)

    @classmethod
    def derive(cls, password: bytes, salt: bytes = b"", iterations: int = ITERATIONS) -> Verifier:
        """A verifier of a prepared password. Takes milliseconds: for a thread.

        :param salt: by default a new one.
        """
        salt = salt or secrets.token_bytes(SALT_OCTETS)
        salted = hashlib.pbkdf2_hmac("sha256", saslprep(password), salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        stored_key = hashlib.sha256(client_key).digest()
        return cls(iterations, salt, stored_key, hmac.digest(salted, b"Server Key", "sha256"))

    def __str__(self) -> str:
        keys = (self.salt, self.stored_key, self.server_key)
        return ",".join((str(self.iterations), *(base64.b64encode(key).decode("ascii") for key in keys)))

    def matches(self, password: bytes) -> bool:
        """Whether the prepared password is the one. For a thread."""
        again = Verifier.derive(password, self.salt, self.iterations)
        return hmac.compare_digest(again.stored_key, self.stored_key)


def saslprep(password: bytes) -> bytes:
    """A prepared password as clients of RFC 5802 §2.2 hash it: RFC 4013, a stored string.

    What RFC 4013 forbids stays as it is; such a password can be used with PLAIN alone, or by clients that
    follow RFC 8265 here too.
    """
    if password.isascii():
        return password
    text = password.decode("utf-8")
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    normal = unicodedata.normalize("NFKC", mapped)
    forbidden = (
        stringprep.in_table_a1,
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
    )
    if not normal or any(test(c) for c in normal for test in forbidden):
        return password
    # RFC 3454 §6: right-to-left text begins and ends so, and has nothing of the other direction.
    right = [stringprep.in_table_d1(c) for c in normal]
    if any(right) and not (right[0] and right[-1] and not any(stringprep.in_table_d2(c) for c in normal)):
        return password
    return normal.encode("utf-8")


@attrs.frozen(slots=True)
class ClientFirst:
    """The client's first message (RFC 5802 §7).

    :ivar header: the GS2 header as sent; the final message repeats it.
    :ivar flag: "n" (no channel binding), "y" (the client could, but thinks that we cannot), "p" (bound).
    :ivar binding: the name of the channel binding, for "p".
    """

    header: bytes
    flag: Literal["n", "y", "p"]
    binding: str
    authorization: bytes
    username: bytes
    nonce: bytes
    bare: bytes = attrs.field(repr=False)

    @classmethod
    def parse(cls, message: bytes) -> ClientFirst:
        """:raises ValueError: where it is malformed, or asks for an extension (``m=``)."""
        parts = message.split(b",", 2)
        if len(parts) != 3:
            raise ValueError("no GS2 header")
        how, authorization, bare = parts
        binding = ""
        if how.startswith(b"p="):
            if not _BINDING.match(how[2:]):
                raise ValueError("no name of a channel binding")
            flag: Literal["n", "y", "p"] = "p"
            binding = how[2:].decode("ascii")
        elif how in (b"n", b"y"):
            flag = "n" if how == b"n" else "y"
        else:
            raise ValueError("no channel binding flag")
        if authorization and not authorization.startswith(b"a="):
            raise ValueError("malformed GS2 header")
        fields = bare.split(b",")
        if len(fields) < 2 or not fields[0].startswith(b"n=") or not fields[1].startswith(b"r="):
            raise ValueError("no user name or nonce")
        nonce = fields[1][2:]
        if len(nonce) > MAX_NONCE or not _NONCE.match(nonce):
            raise ValueError("malformed nonce")
        header = message[: len(message) - len(bare)]
        return cls(header, flag, binding, _name(authorization[2:]), _name(fields[0][2:]), nonce, bare)


def _name(text: bytes) -> bytes:
    """A saslname: "=2C" is a comma, "=3D" an equals sign, no other "=" (RFC 5802 §5.1)."""
    if re.search(rb"=(?!2C|3D)", text):
        raise ValueError("malformed name")
    return text.replace(b"=2C", b",").replace(b"=3D", b"=")


class Proof:
    """The server's half of an exchange after the client's first message.

    :param verifiers: of the one account, all with the salt and iterations that are told; none for an account
        that cannot log in so: then nothing is ever proved.
    :param bound: the octets of the channel that "p" names (RFC 5802 §6).
    :param nonce: ours, made up by default; tests give it.
    """

    def __init__(
        self,
        first: ClientFirst,
        verifiers: Sequence[Verifier],
        salt: bytes,
        iterations: int,
        bound: bytes = b"",
        nonce: bytes = b"",
    ) -> None:
        self._first = first
        self._verifiers = tuple(verifiers)
        self._bound = bound
        nonce = nonce or base64.b64encode(secrets.token_bytes(NONCE_OCTETS))
        self._nonce = first.nonce + nonce
        #: The server's first message.
        self.challenge = b"r=%b,s=%b,i=%d" % (self._nonce, base64.b64encode(salt), iterations)

    def check(self, message: bytes) -> tuple[int, bytes] | None:
        """The client's final message: which verifier it proves, and our final message; None for none.

        :raises ValueError: where it is malformed or not of this exchange.
        """
        without, comma, last = message.rpartition(b",")
        fields = without.split(b",")
        if not comma or not last.startswith(b"p=") or len(fields) < 2:
            raise ValueError("no proof")
        if not fields[0].startswith(b"c=") or not fields[1].startswith(b"r="):
            raise ValueError("no channel binding or nonce")
        # RFC 5802 §5.1: the GS2 header again, with the channel's octets where it is bound.
        if not hmac.compare_digest(_decode(fields[0][2:]), self._first.header + self._bound):
            raise ValueError("the channel is another one")
        if not hmac.compare_digest(fields[1][2:], self._nonce):
            raise ValueError("the nonce is another one")
        proof = _decode(last[2:])
        if len(proof) != _KEY:
            raise ValueError("a proof of another length")
        signed = b",".join((self._first.bare, self.challenge, without))
        proved: tuple[int, bytes] | None = None
        for number, verifier in enumerate(self._verifiers):
            signature = hmac.digest(verifier.stored_key, signed, "sha256")
            client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
            if hmac.compare_digest(hashlib.sha256(client_key).digest(), verifier.stored_key):
                final = hmac.digest(verifier.server_key, signed, "sha256")
                proved = (number, b"v=" + base64.b64encode(final))
        return proved


def _decode(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
