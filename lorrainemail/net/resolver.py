"""DNS as mail needs it: MX, addresses, TXT, PTR, asked from recursive resolvers and remembered for a while.

Owns the choice and the repetition among the servers (``/etc/resolv.conf`` or ``[dns] resolvers``), the
reading of answers (CNAME chains followed, their length bounded; records of other names ignored) and a cache
with bounds in size and time, also of negative answers (RFC 2308). The wire is
:mod:`lorrainemail.net.exchange`. Callers: the remote courier, policy, doctor; through :class:`IResolver`.

What a question comes to:

- records: from NOERROR with records of the type at the end of the chain;
- "nxdomain", "nodata": from NXDOMAIN, from NOERROR without such records;
- "temporary": SERVFAIL, REFUSED, nonsense or silence from every server, a chain without end. Never cached
  longer than a few seconds.

No server is asked after :data:`QUESTION_TIME`. Fails with :class:`DnsFailure` and nothing else.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import attrs
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.interfaces import DnsFailure, IResolver, MxHost
from lorrainemail.net.exchange import ExchangeError, ReactorForDns, Server, exchange, make_query
from lorrainemail.net.peers import canonical

#: Seconds for one answer of one server, in the first and in later rounds.
PATIENCE: Final = (3.0, 6.0)
#: Seconds for a whole question, chain and repetitions included.
QUESTION_TIME: Final = 25.0
#: Servers that are used of a long list.
MAX_SERVERS: Final = 6
#: CNAMEs from a name to its records.
MAX_CHAIN: Final = 10
#: Records of one answer that are used.
MAX_RECORDS: Final = 64
#: Answers that are remembered, and bounds of the time for it in seconds (RFC 2181 §8, RFC 2308 §5).
MAX_REMEMBERED: Final = 20_000
MIN_TTL: Final = 1
MAX_TTL: Final = 86_400
MAX_NEGATIVE_TTL: Final = 3_600
#: Seconds for which a failure is remembered, so that a thousand messages ask once (RFC 9520 §3.2).
FAILURE_TTL: Final = 5

RESOLV_CONF: Final = "/etc/resolv.conf"

Kind = Literal["nxdomain", "nodata", "temporary"]

_log = Logger("lorrainemail.net.resolver")


@attrs.frozen(slots=True)
class Answer:
    """Records at the end of a question's chain.

    :ivar records: of the type that was asked, at most :data:`MAX_RECORDS`.
    :ivar name: where they are, after CNAMEs.
    :ivar authentic: DNSSEC-validated by a resolver that the configuration trusts.
    """

    records: tuple[dns.rdata.Rdata, ...]
    name: dns.name.Name
    authentic: bool = False


@attrs.define(slots=True, eq=False)
class _Remembered:
    answer: Answer | DnsFailure
    until: float


_Key = tuple[dns.name.Name, dns.rdatatype.RdataType]


def parse_server(text: str) -> Server:
    """``192.0.2.1``, ``192.0.2.1:5353``, ``::1`` or ``[::1]:5353``.

    :raises ValueError: where it is none of them.
    """
    host, port = text, "53"
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"not an address and port: {text}")
        port = rest[1:] or "53"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    address = canonical(host)
    if not address or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"not an address and port: {text}")
    return Server(address, int(port))


def system_servers(path: str = RESOLV_CONF) -> tuple[Server, ...]:
    """The resolvers of resolv.conf(5); the local machine where it names none."""
    servers = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file.read(65536).splitlines():
                words = line.split()
                if len(words) >= 2 and words[0] == "nameserver":
                    try:
                        servers.append(parse_server(words[1]))
                    except ValueError:
                        _log.warn("{path}: {word} is not used as a resolver", path=path, word=words[1])
    except OSError as error:
        _log.warn("{path} cannot be read: {error}", path=path, error=error)
    return tuple(servers[:MAX_SERVERS]) or (Server("127.0.0.1"),)


@implementer(IResolver)
class Resolver:
    """A caching stub resolver.

    :param reactor: sockets and timers.
    :param servers: "address" or "address:port"; none: those of ``/etc/resolv.conf``.
    :param trusted: believe the servers' DNSSEC verdict (the AD bit): only where the way to them is safe.
    :param monotonic: the clock of the cache.
    :raises ValueError: for a server that is no address.
    """

    def __init__(
        self,
        reactor: ReactorForDns,
        servers: Sequence[str] = (),
        trusted: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        resolv_conf: str = RESOLV_CONF,
    ) -> None:
        self._reactor = reactor
        self._monotonic = monotonic
        self._resolv_conf = resolv_conf
        self._cache: OrderedDict[_Key, _Remembered] = OrderedDict()
        self._asking: dict[_Key, list[Deferred[Answer]]] = {}
        self._without_edns: set[Server] = set()
        self.reload(servers, trusted)

    def reload(self, servers: Sequence[str] = (), trusted: bool = False) -> None:
        """Other servers, or the system's read anew; what is remembered is forgotten.

        :raises ValueError: for a server that is no address; nothing has changed then.
        """
        if servers:
            parsed = tuple(parse_server(text) for text in servers[:MAX_SERVERS])
        else:
            parsed = system_servers(self._resolv_conf)
        self.servers = parsed
        self.trusted = trusted
        self._cache.clear()
        self._without_edns.clear()

    # -- IResolver -------------------------------------------------------------------------------

    def mx(self, domain: str) -> Deferred[list[MxHost]]:
        return Deferred.fromCoroutine(self._mx(domain))

    async def _mx(self, domain: str) -> list[MxHost]:
        answer = await self.query(domain, dns.rdatatype.MX)
        return [
            MxHost(record.preference, _text(record.exchange))  # type: ignore[attr-defined]
            for record in answer.records
        ]

    def addresses(self, host: str, ipv6: bool = True, ipv4: bool = True) -> Deferred[list[str]]:
        return Deferred.fromCoroutine(self._addresses(host, ipv6, ipv4))

    async def _addresses(self, host: str, ipv6: bool, ipv4: bool) -> list[str]:
        types = [dns.rdatatype.AAAA] * ipv6 + [dns.rdatatype.A] * ipv4
        results: list[tuple[bool, Any]] = await DeferredList(
            [self.query(host, one) for one in types], consumeErrors=True
        )
        found: list[str] = []
        failures: list[DnsFailure] = []
        for success, result in results:
            if success:
                found += [canonical(record.address) for record in result.records]
            elif isinstance(result.value, DnsFailure):
                failures.append(result.value)
            else:
                result.raiseException()
        if found:
            return found
        # Without an address, one family's silence may hide the only one: so it must be asked again.
        for kind in ("temporary", "nodata", "nxdomain"):
            for failure in failures:
                if failure.kind == kind:
                    raise failure
        raise DnsFailure("nodata", host, "no address family is wanted")

    def txt(self, name: str) -> Deferred[list[bytes]]:
        return Deferred.fromCoroutine(self._txt(name))

    async def _txt(self, name: str) -> list[bytes]:
        answer = await self.query(name, dns.rdatatype.TXT)
        return [b"".join(record.strings) for record in answer.records]  # type: ignore[attr-defined]

    def ptr(self, address: str) -> Deferred[list[str]]:
        return Deferred.fromCoroutine(self._ptr(address))

    async def _ptr(self, address: str) -> list[str]:
        try:
            name = dns.reversename.from_address(address)
        except (dns.exception.DNSException, ValueError):
            raise DnsFailure("nxdomain", address, "no IP address") from None
        answer = await self._ask((name, dns.rdatatype.PTR))
        return [_text(record.target) for record in answer.records]  # type: ignore[attr-defined]

    # -- questions -------------------------------------------------------------------------------

    def query(self, name: str, rdtype: dns.rdatatype.RdataType) -> Deferred[Answer]:
        """Any question. The name is absolute, in A-labels."""
        try:
            parsed = dns.name.from_text(name, idna_codec=None) if name.isascii() else None
        except (dns.exception.DNSException, ValueError):
            parsed = None
        if parsed is None:  # what cannot be a name does not exist
            failed: Deferred[Answer] = Deferred()
            failed.errback(DnsFailure("nxdomain", name, "malformed name"))
            return failed
        return self._ask((parsed.canonicalize(), rdtype))

    def _ask(self, key: _Key) -> Deferred[Answer]:
        """From memory, or from the servers; equal questions at the same time are asked once."""
        done: Deferred[Answer] = Deferred()
        known = self._cache.get(key)
        if known is not None:
            if known.until > self._monotonic():
                self._cache.move_to_end(key)
                _fire(done, known.answer)
                return done
            del self._cache[key]
        waiting = self._asking.get(key)
        if waiting is not None:
            waiting.append(done)
            return done
        self._asking[key] = [done]
        Deferred.fromCoroutine(self._resolve(key)).addBoth(self._answered, key)
        return done

    def _answered(self, result: _Remembered | Failure, key: _Key) -> None:
        if isinstance(result, Failure):
            _log.failure("a DNS question failed unexpectedly", result)
            result = _Remembered(DnsFailure("temporary", _text(key[0]), "internal error"), 0.0)
        else:
            self._cache[key] = result
            if len(self._cache) > MAX_REMEMBERED:
                self._cache.popitem(last=False)
        for done in self._asking.pop(key, []):
            if not done.called:  # its caller may have given up
                _fire(done, result.answer)

    async def _resolve(self, key: _Key) -> _Remembered:
        """Ask, and follow the chain of CNAMEs."""
        name, rdtype = key
        deadline = self._monotonic() + QUESTION_TIME
        question = f"{_text(name)} {dns.rdatatype.to_text(rdtype)}"
        authentic, ttl, links = True, MAX_TTL, 0
        while True:
            try:
                answer = await self._from_servers(name, rdtype, deadline)
            except ExchangeError as error:
                return self._failure("temporary", question, str(error), FAILURE_TTL)
            authentic = authentic and self.trusted and bool(answer.flags & dns.flags.AD)
            name, records, steps, chain_ttl = _follow(answer, name, rdtype)
            links += steps
            ttl = min(ttl, chain_ttl)
            if records:
                until = self._monotonic() + max(ttl, MIN_TTL)
                return _Remembered(Answer(records[:MAX_RECORDS], name, authentic), until)
            if links > MAX_CHAIN:
                return self._failure("temporary", question, "CNAME chain without end", FAILURE_TTL)
            kind: Kind = "nxdomain" if answer.rcode() == dns.rcode.NXDOMAIN else "nodata"
            if kind == "nxdomain" or steps == 0:
                return self._failure(kind, question, "", min(ttl, _negative_ttl(answer)))
            # the chain leaves this answer: ask for its end

    def _failure(self, kind: Kind, question: str, detail: str, ttl: int) -> _Remembered:
        return _Remembered(DnsFailure(kind, question, detail), self._monotonic() + max(ttl, MIN_TTL))

    async def _from_servers(
        self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, deadline: float
    ) -> dns.message.Message:
        """The first usable answer, each server in turn, twice."""
        last = ExchangeError("no resolver")
        for patience in PATIENCE:
            for server in self.servers:
                left = deadline - self._monotonic()
                if left <= 0:
                    raise ExchangeError(f"out of time; {last}")
                try:
                    answer = await self._from_server(server, name, rdtype, min(patience, left))
                except ExchangeError as error:
                    last = error
                    continue
                if answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                    return answer
                last = ExchangeError(f"{server}: {dns.rcode.to_text(answer.rcode())}")
        raise last

    async def _from_server(
        self, server: Server, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, seconds: float
    ) -> dns.message.Message:
        edns = server not in self._without_edns
        query = make_query(name, rdtype, self.trusted, edns)
        answer = await exchange(self._reactor, server, query, seconds)
        if edns and answer.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP):
            # RFC 6891 §7: a server that does not know EDNS
            query = make_query(name, rdtype, self.trusted, False)
            answer = await exchange(self._reactor, server, query, seconds)
            if answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                self._without_edns.add(server)
        return answer


def _fire(done: Deferred[Answer], answer: Answer | DnsFailure) -> None:
    if isinstance(answer, DnsFailure):
        # a fresh one each time: an exception collects tracebacks of all who raise it
        done.errback(DnsFailure(answer.kind, answer.question, str(answer).partition(": ")[2]))
    else:
        done.callback(answer)


def _follow(
    answer: dns.message.Message, name: dns.name.Name, rdtype: dns.rdatatype.RdataType
) -> tuple[dns.name.Name, tuple[dns.rdata.Rdata, ...], int, int]:
    """Through the answer section from a name: (its end, records there, CNAMEs passed, smallest TTL)."""
    records: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], tuple[dns.rdata.Rdata, ...]] = {}
    ttls: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], int] = {}
    for rrset in answer.answer[: MAX_RECORDS * 2]:
        if rrset.rdclass == dns.rdataclass.IN:
            key = (rrset.name.canonicalize(), rrset.rdtype)
            records[key] = records.get(key, ()) + tuple(rrset)
            ttls[key] = min(ttls.get(key, MAX_TTL), rrset.ttl)
    ttl, steps = MAX_TTL, 0
    while True:
        found = records.get((name, rdtype))
        if found:
            return name, found, steps, min(ttl, ttls[(name, rdtype)])
        alias = records.get((name, dns.rdatatype.CNAME))
        if not alias or steps > MAX_CHAIN:
            return name, (), steps, ttl
        ttl = min(ttl, ttls[(name, dns.rdatatype.CNAME)])
        name = alias[0].target.canonicalize()  # type: ignore[attr-defined]
        steps += 1


def _negative_ttl(answer: dns.message.Message) -> int:
    """RFC 2308 §5: the lesser of the SOA's TTL and its last field."""
    for rrset in answer.authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            for record in rrset:
                return min(int(rrset.ttl), int(record.minimum), MAX_NEGATIVE_TTL)
    return FAILURE_TTL


def _text(name: dns.name.Name) -> str:
    """Lower case without the trailing dot; "." for the root."""
    return name.canonicalize().to_text(omit_final_dot=True) if len(name) > 1 else "."
