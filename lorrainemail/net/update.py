"""Changes to a zone on somebody's name server: RFC 2136 updates, signed by TSIG (RFC 8945).

:class:`Updater` sends one update at a time over TCP and believes an answer only with a good signature.
Composed for the DNS-01 challenge and for ``lorrainemail domain dns --publish``. Fails with
:class:`UpdateError`, in words for the operator, after :data:`PATIENCE` seconds at most; whether an update
whose answer is missing was made is not known then, so callers only send what may be sent twice.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any, Final, Literal

import attrs
import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import dns.update
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from lorrainemail.net.exchange import Server

#: Seconds for one update.
PATIENCE: Final = 20.0
#: Octets of a key file.
MAX_KEY_FILE: Final = 8192
#: Changes in one update; a message holds 65,535 octets.
MAX_CHANGES: Final = 200

_NAMED = re.compile(r'key\s+"?([^\s"{]+)"?\s*\{(.*?)\}', re.S)
_ALGORITHM = re.compile(r'algorithm:?\s+"?([A-Za-z0-9.-]+)"?')
_SECRET = re.compile(r'secret:?\s+"?([A-Za-z0-9+/=]+)"?')
_ID = re.compile(r'-?\s*id:\s+"?([^\s"]+)"?')


class UpdateError(Exception):
    """The update was not made, or it is not known; the text says why."""


@attrs.frozen(slots=True)
class Change:
    """One change.

    :ivar verb: "add" a record; "remove" that one record; "clear" all of the name and type.
    :ivar data: in the form of a zone file, "" for "clear".
    """

    verb: Literal["add", "remove", "clear"]
    name: str
    type: str
    data: str = ""
    ttl: int = 60


def parse_key(text: str) -> dns.tsig.Key:
    """A TSIG key as ``tsig-keygen`` (BIND) or ``keymgr -t`` (Knot) print it.

    :raises ValueError: where it is none.
    """
    named = _NAMED.search(text)
    name = named.group(1) if named else next(iter(_ID.findall(text)), "")
    body = named.group(2) if named else text
    algorithm, secret = _ALGORITHM.search(body), _SECRET.search(body)
    if not name or algorithm is None or secret is None:
        raise ValueError("no TSIG key with its name, algorithm and secret")
    try:
        octets = base64.b64decode(secret.group(1), validate=True)
        return dns.tsig.Key(dns.name.from_text(name), octets, dns.name.from_text(algorithm.group(1).lower()))
    except (binascii.Error, dns.exception.DNSException) as error:
        raise ValueError(f"the TSIG key cannot be used: {error}") from None


def read_key(path: str) -> dns.tsig.Key:
    """The key of a file.

    :raises UpdateError: where it cannot be read or holds none.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return parse_key(file.read(MAX_KEY_FILE))
    except OSError as error:
        raise UpdateError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UpdateError(f"{path}: {error}") from None


class Updater:
    """Sends updates to one server.

    :param key: signs them.
    """

    def __init__(self, reactor: Any, server: Server, key: dns.tsig.Key) -> None:
        self._reactor = reactor
        self._server = server
        self._key = key

    async def send(self, zone: str, changes: Sequence[Change]) -> None:
        """Make all of the changes, or none.

        :raises UpdateError: where they were not made.
        """
        for start in range(0, len(changes), MAX_CHANGES):
            await self._one(zone, changes[start : start + MAX_CHANGES])

    async def _one(self, zone: str, changes: Sequence[Change]) -> None:
        message = self._message(zone, changes)
        wire = message.to_wire()
        answered: Deferred[bytes] = Deferred.fromCoroutine(self._exchange(wire))
        try:
            answer = await answered.addTimeout(PATIENCE, self._reactor)
        except TimeoutError:
            raise UpdateError(f"{self._server} does not answer in time") from None
        try:
            response = dns.message.from_wire(answer, keyring=self._key, request_mac=message.mac)
        except dns.tsig.PeerError as error:
            raise UpdateError(f"{self._server} does not accept the key: {type(error).__name__}") from None
        except (dns.exception.DNSException, ValueError) as error:
            word = dns.rcode.to_text(dns.rcode.Rcode(answer[3] & 15)) if len(answer) > 3 else "nothing"
            what = f"{self._server} said {word} to a change of {zone}, in an answer without a good signature"
            raise UpdateError(f"{what}: {error}") from None
        if response.id != message.id or not response.had_tsig:
            raise UpdateError(f"{self._server}: the answer is not signed")
        if response.rcode() != dns.rcode.NOERROR:
            word = dns.rcode.to_text(response.rcode())
            raise UpdateError(f"{self._server} refuses to change {zone}: {word}")

    def _message(self, zone: str, changes: Sequence[Change]) -> dns.update.UpdateMessage:
        message = dns.update.UpdateMessage(f"{zone}.", keyring=self._key)
        for change in changes:
            name = dns.name.from_text(f"{change.name}.")
            kind = dns.rdatatype.from_text(change.type)
            if change.verb == "clear":
                message.delete(name, kind)
                continue
            data = dns.rdata.from_text(dns.rdataclass.IN, kind, change.data)
            if change.verb == "add":
                message.add(name, change.ttl, data)
            else:
                message.delete(name, data)
        return message

    async def _exchange(self, wire: bytes) -> bytes:
        point = HostnameEndpoint(self._reactor, self._server.host, self._server.port, timeout=PATIENCE)
        try:
            line: Any = await point.connect(Factory.forProtocol(_Line))
        except Exception as error:
            raise UpdateError(f"{self._server} is not reached: {error}") from None
        transport: Any = line.transport
        transport.write(len(wire).to_bytes(2, "big") + wire)
        try:
            return bytes(await line.answered)
        finally:
            transport.abortConnection()


class _Line(Protocol):
    """One answer with its length before it (RFC 1035 §4.2.2)."""

    def __init__(self) -> None:
        self.answered: Deferred[bytes] = Deferred()
        self._buffer = b""

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        length = int.from_bytes(self._buffer[:2], "big")
        if len(self._buffer) >= 2 + length and len(self._buffer) > 2 and not self.answered.called:
            self.answered.callback(self._buffer[2 : 2 + length])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.answered.called:
            self.answered.errback(UpdateError("the name server closed the connection without an answer"))
