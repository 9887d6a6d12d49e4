"""From a DNS query's octets to a response's, authoritative only: no recursion, no transfers, no updates.

Pure but for the rate limit's clock. Called by both transports of :mod:`lorrainemail.dns.server`. Never
fails: what is no query gets no answer, what cannot be read FORMERR, what we do not do NOTIMP or REFUSED.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lorrainemail.dns.zones import Zones
from lorrainemail.net.limits import TokenBuckets
from lorrainemail.net.peers import is_loopback
from lorrainemail.ops.metrics import Counter

log = Logger(namespace="lorrainemail.dns")

_RESPONSES = Counter("lorrainemail_dns_responses", "DNS responses by transport", ["transport"])
_LIMITED = Counter("lorrainemail_dns_limited", "DNS queries over the rate of their network")

#: RFC 1035 §4.2.1, without EDNS.
PLAIN_UDP: Final = 512
#: What crosses the networks of today without fragments.
LARGEST_UDP: Final = 1232
#: RFC 1035 §4.2.2.
LARGEST_TCP: Final = 65535
#: A query is one question with its options; larger ones are not read.
LARGEST_QUERY: Final = 4096
#: UDP responses a second to one peer network (IPv4 /24, IPv6 /56), and at once; a victim of forged queries
#: gets no more.
RATE: Final = 50.0
BURST: Final = 200.0
#: Of those over the rate, every so many-th gets a truncated answer, so that a true client can use TCP.
SLIP: Final = 2

_HEADER: Final = struct.Struct("!HHHHHH")
_TRANSFERS: Final = frozenset({dns.rdatatype.AXFR, dns.rdatatype.IXFR})
_METATYPES: Final = frozenset({dns.rdatatype.MAILA, dns.rdatatype.MAILB, dns.rdatatype.OPT})


class Responder:
    """Answers queries.

    :ivar zones: what is served; may be replaced while running. ``made``: zones that are made here, likewise;
        of two that a name could belong to the longer one answers.
    """

    def __init__(self, zones: Zones, clock: IReactorTime, rate: float = RATE, burst: float = BURST) -> None:
        self.zones = zones
        self.made = Zones()
        self._buckets = TokenBuckets(clock, rate, burst)
        self._over = 0

    def udp(self, wire: bytes, peer: str) -> bytes | None:
        """The response to a datagram from that canonical address, None for silence."""
        message = self._respond(wire)
        if message is None:
            return None
        response, largest = message
        if not is_loopback(peer) and not self._buckets.take(_target(peer)):
            self._over += 1
            _LIMITED.inc()
            if self._over % SLIP:
                return None
            return _print(response, 0)
        _RESPONSES.labels("udp").inc()
        return _print(response, largest)

    def tcp(self, wire: bytes) -> bytes | None:
        """The response to one message of a TCP connection, without its length."""
        message = self._respond(wire)
        _RESPONSES.labels("tcp").inc()
        return None if message is None else _print(message[0], LARGEST_TCP)

    def _respond(self, wire: bytes) -> tuple[dns.message.Message, int] | None:
        """The response, and how large it may be over UDP."""
        if len(wire) < _HEADER.size or wire[2] & 0x80:
            # No query: an answer to an answer could go round for ever.
            return None
        try:
            if len(wire) > LARGEST_QUERY:
                raise ValueError("the query is too large")
            query = dns.message.from_wire(wire)
            response = dns.message.make_response(query, our_payload=LARGEST_UDP)
        except Exception as error:
            # Whatever the parser trips over, the peer sent it.
            log.debug("A query could not be read: {error}", error=type(error).__name__)
            return _format_error(wire), PLAIN_UDP
        largest = PLAIN_UDP
        if query.edns >= 0:
            largest = min(max(PLAIN_UDP, query.payload), LARGEST_UDP)
        self._fill(query, response)
        return response, largest

    def _fill(self, query: dns.message.Message, response: dns.message.Message) -> None:
        if query.edns > 0:
            # RFC 6891 §6.1.3.
            response.set_rcode(dns.rcode.BADVERS)
            return
        if query.opcode() != dns.opcode.QUERY:
            response.set_rcode(dns.rcode.NOTIMP)
            return
        if len(query.question) != 1:
            response.set_rcode(dns.rcode.FORMERR)
            return
        question = query.question[0]
        if question.rdclass not in (dns.rdataclass.IN, dns.rdataclass.ANY) or question.rdtype in _TRANSFERS:
            response.set_rcode(dns.rcode.REFUSED)
            return
        if question.rdtype in _METATYPES:
            response.set_rcode(dns.rcode.NOTIMP)
            return
        # RFC 4035 §3.1: proofs for those who ask for them.
        wanted = bool(query.ednsflags & dns.flags.DO)
        answer = self._zones_of(question.name).answer(question.name, question.rdtype, wanted)
        if wanted:
            response.want_dnssec()
        response.set_rcode(answer.rcode)
        if answer.authoritative:
            response.flags |= dns.flags.AA
        response.answer = answer.answer
        response.authority = answer.authority
        response.additional = answer.additional

    def serves(self, name: dns.name.Name) -> bool:
        """Whether a name is in one of the zones."""
        return self.made.of(name) is not None or self.zones.of(name) is not None

    def _zones_of(self, name: dns.name.Name) -> Zones:
        made, other = self.made.of(name), self.zones.of(name)
        if made is None or (other is not None and len(other.origin) > len(made.origin)):
            return self.zones
        return self.made


def _target(peer: str) -> str:
    """The network that forged queries would flood: a whole one, as its line is what is filled."""
    prefix = 56 if ":" in peer else 24
    return str(ipaddress.ip_network(f"{peer}/{prefix}", strict=False))


def _format_error(wire: bytes) -> dns.message.Message:
    """FORMERR to a message of which only the header can be read."""
    identity, flags, *_ = _HEADER.unpack_from(wire)
    response = dns.message.Message(id=identity)
    # The opcode and RD go back as they came (RFC 1035 §4.1.1).
    response.flags = dns.flags.QR | (flags & 0x7900)
    response.set_rcode(dns.rcode.FORMERR)
    return response


def _print(response: dns.message.Message, largest: int) -> bytes:
    """The response's octets: without the additional records where they do not fit, and with TC and nothing
    else where the answer itself does not (RFC 2181 §9). 0: always truncated."""
    for _ in range(2):
        if largest:
            try:
                return response.to_wire(max_size=largest)
            except dns.exception.TooBig:
                response.additional = []
    response.answer = []
    response.authority = []
    response.additional = []
    response.flags |= dns.flags.TC
    return response.to_wire(max_size=PLAIN_UDP)
