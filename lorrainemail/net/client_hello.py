"""What a TLS client offers in its first message: the protocols of ALPN (RFC 7301 §3.1).

OpenSSL asks for the certificate before it tells of ALPN, so the answer to an ACME challenge (RFC 8737), which
depends on both, needs the message itself. Pure; any input is answered, and what is no ClientHello offers
nothing. Called by :mod:`lorrainemail.net.tls`, only while a challenge waits.
"""

from __future__ import annotations

from typing import Final

#: Octets of a connection's beginning that are looked at; a ClientHello with post-quantum shares has 2 KiB.
MAX_HELLO: Final = 16 * 1024

_HANDSHAKE_RECORD: Final = 22
_CLIENT_HELLO: Final = 1
_ALPN: Final = 16


class _Short(Exception):
    """The message ends before its time."""


class _Octets:
    """Reads length-prefixed fields."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise _Short
        piece, self.at = self.data[self.at : end], end
        return piece

    def number(self, octets: int) -> int:
        return int.from_bytes(self.take(octets), "big")

    def vector(self, octets: int) -> bytes:
        """A field with its length in front."""
        return self.take(self.number(octets))

    def more(self) -> bool:
        return self.at < len(self.data)


def offered_protocols(stream: bytes) -> tuple[bytes, ...]:
    """The ALPN protocol names of the ClientHello at the beginning of a connection, in the client's order."""
    try:
        return _protocols(_handshake(stream))
    except _Short:
        return ()


def _handshake(stream: bytes) -> bytes:
    """The ClientHello's body out of its records (RFC 8446 §5.1: it may be cut into several)."""
    records = _Octets(stream[:MAX_HELLO])
    message = b""
    while True:
        if records.number(1) != _HANDSHAKE_RECORD:
            raise _Short
        records.take(2)  # a version that means nothing
        message += records.vector(2)
        if len(message) >= 4:
            length = int.from_bytes(message[1:4], "big")
            if message[0] != _CLIENT_HELLO or length > MAX_HELLO:
                raise _Short
            if len(message) >= 4 + length:
                return message[4 : 4 + length]


def _protocols(hello: bytes) -> tuple[bytes, ...]:
    """RFC 8446 §4.1.2."""
    fields = _Octets(hello)
    fields.take(2 + 32)  # version, random
    fields.vector(1)  # session id
    fields.vector(2)  # suites
    fields.vector(1)  # compression
    extensions = _Octets(fields.vector(2)) if fields.more() else _Octets(b"")
    while extensions.more():
        kind, value = extensions.number(2), extensions.vector(2)
        if kind == _ALPN:
            names = _Octets(_Octets(value).vector(2))
            found = []
            while names.more():
                found.append(names.vector(1))
            return tuple(found)
    return ()
