"""The first members of the policy chain: greeting, sender's domain, loops, rates.

Each is a check (:class:`~lorrainemail.interfaces.IPolicyCheck`) that says in one sentence why; their plugins
stand in ``lorrainemail/plugins/lorrainemail_policy.py``. None of them looks at clients that logged in or may
relay, but for loops, which harm us whoever sends. State: the rate counters alone, bounded in memory, which
outlive a reload.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final, cast

from twisted.internet.defer import Deferred
from zope.interface import implementer

from lorrainemail.addresses import AddressError, parse_address
from lorrainemail.errors import Reply
from lorrainemail.grammar.smtp import is_well_formed_greeting
from lorrainemail.interfaces import (
    Action,
    Circumstances,
    DnsFailure,
    IPolicyCheck,
    IResolver,
    PolicyResources,
    Stage,
    Verdict,
    later,
)
from lorrainemail.net.limits import TokenBuckets
from lorrainemail.net.peers import is_loopback, network_key

#: Octets of a message in which loops looks for Received and Delivered-To.
MAX_HEADER: Final = 256 * 1024
MINUTE: Final = 60
#: Bounces of what aliases and filters sent on, the only relay right of a stranger: a second, and at once.
RETURNED_RATE: Final = 0.1
RETURNED_BURST: Final = 100.0

_DELIVERED_TO = re.compile(rb"^Delivered-To:[ \t]*([^\r\n]+)", re.IGNORECASE | re.MULTILINE)


def is_stranger(circumstances: Circumstances) -> bool:
    """A client on the smtp door that neither logged in nor may relay."""
    session = circumstances.session
    if session.door != "smtp" or session.account:
        return False
    relay = circumstances.relay or circumstances.tables.relay_right(session)
    return not relay.allowed


@implementer(IPolicyCheck)
class Helo:
    """Refuses greetings that are no name, and strangers that greet with our own."""

    name: ClassVar[str] = "helo"

    def __init__(self, hostname: str) -> None:
        self.stages: frozenset[Stage] = frozenset({"helo"})
        self._hostname = hostname.lower()

    def judge(self, circumstances: Circumstances) -> Verdict | None:
        if not is_stranger(circumstances):
            return None
        session = circumstances.session
        greeting = session.helo
        # RFC 5321 §4.1.4: it must not be refused for not being verified; what is no name at all may be.
        if not is_well_formed_greeting(greeting):
            return self._refuse(
                Reply(501, "5.5.2", "Your greeting is neither a host name nor an address literal")
            )
        ours = greeting.lower().rstrip(".") == self._hostname or _literal_of(greeting) == session.local != ""
        if ours and session.peer != session.local and not is_loopback(session.peer):
            return self._refuse(Reply(550, "5.7.1", "You greet with our own name"))
        return None

    def _refuse(self, reply: Reply) -> Verdict:
        return Verdict(Action.REFUSE, self.name, reply.text, reply)


def _literal_of(greeting: str) -> str:
    """The IP address of an address literal, "" where it is none."""
    if not greeting.startswith("["):
        return ""
    return greeting[1:-1].lower().removeprefix("ipv6:")


@implementer(IPolicyCheck)
class SenderDomain:
    """Refuses a stranger's reverse-path whose domain could never take a reply."""

    name: ClassVar[str] = "sender_domain"

    def __init__(self, resolver: IResolver) -> None:
        self.stages: frozenset[Stage] = frozenset({"mail"})
        self._resolver = resolver

    def judge(self, circumstances: Circumstances) -> Verdict | None | Deferred[Verdict | None]:
        sender = circumstances.sender
        if sender is None or sender.domain.startswith("[") or not is_stranger(circumstances):
            return None
        return Deferred.fromCoroutine(self._judge(circumstances, sender.domain))

    async def _judge(self, circumstances: Circumstances, domain: str) -> Verdict | None:
        if await later(circumstances.tables.is_local(domain)):
            return None
        try:
            try:
                exchanges = await self._resolver.mx(domain)
            except DnsFailure as failure:
                if failure.kind != "nodata":
                    raise
                # RFC 5321 §5.1: without MX the address itself is one.
                await self._resolver.addresses(domain)
                return None
        except DnsFailure as failure:
            if failure.kind == "temporary":
                words = f"The domain of the sender, {domain}, cannot be looked up now"
                return Verdict(Action.DEFER, self.name, str(failure), Reply(451, "4.1.8", words))
            words = f"The domain of the sender, {domain}, has neither MX nor address"
            return Verdict(Action.REFUSE, self.name, str(failure), Reply(550, "5.1.8", words))
        if exchanges and all(exchange.host in (".", "") for exchange in exchanges):
            # RFC 7505 §4.2.
            words = f"The domain of the sender, {domain}, takes no mail"
            return Verdict(Action.REFUSE, self.name, f"{domain} has a null MX", Reply(550, "5.7.27", words))
        return None


@implementer(IPolicyCheck)
class Loops:
    """Refuses a message that has been through too many hosts, or was delivered to the same address before.

    RFC 5321 §6.3; Delivered-To: RFC 9228.
    """

    name: ClassVar[str] = "loops"

    def __init__(self, hops: int) -> None:
        self.stages: frozenset[Stage] = frozenset({"data"})
        self._hops = hops

    def judge(self, circumstances: Circumstances) -> Verdict | None:
        content, envelope = circumstances.content, circumstances.envelope
        if content is None or envelope is None:
            return None
        head = content.head(MAX_HEADER)
        end = 0 if head.startswith(b"\r\n") else head.find(b"\r\n\r\n")
        header = b"\r\n" + (head if end < 0 else head[:end])
        folded = header.lower()
        hops = folded.count(b"\nreceived:")
        if hops > self._hops:
            reply = Reply(554, "5.4.6", f"The message loops: it has {hops} Received fields")
            return Verdict(Action.REFUSE, self.name, reply.text, reply)
        if b"\ndelivered-to:" not in folded:
            return None
        before = {_key(match) for match in _DELIVERED_TO.findall(header)}
        # With one recipient that was not served yet the message is worth taking.
        if envelope.recipients and all(recipient.address.key in before for recipient in envelope.recipients):
            address = envelope.recipients[0].address
            reply = Reply(554, "5.4.6", f"The message loops: it was delivered to {address} before")
            return Verdict(Action.REFUSE, self.name, reply.text, reply)
        return None


def _key(value: bytes) -> str:
    try:
        return parse_address(value.strip().decode("utf-8").strip("<>")).key
    except (AddressError, UnicodeDecodeError):
        return ""


@implementer(IPolicyCheck)
class Limits:
    """Defers a stranger's network that sends faster than anybody should.

    A minute's worth may come at once. The machine itself is not counted: whatever runs here has other ways to
    keep us busy.
    """

    name: ClassVar[str] = "limits"

    def __init__(self, resources: PolicyResources) -> None:
        self.stages: frozenset[Stage] = frozenset({"mail", "rcpt"})
        self._messages = _buckets(resources, "messages", resources.messages_per_network)
        self._recipients = _buckets(resources, "recipients", resources.recipients_per_network)
        returned = TokenBuckets(resources.clock, RETURNED_RATE, RETURNED_BURST)
        self._returned = cast(TokenBuckets, resources.memory.setdefault(f"{self.name} returned", returned))

    def judge(self, circumstances: Circumstances) -> Verdict | None:
        session = circumstances.session
        returned = circumstances.expansion is not None and circumstances.expansion.reversed
        if (is_loopback(session.peer) and not returned) or not is_stranger(circumstances):
            return None
        buckets, what = (
            (self._messages, "messages")
            if circumstances.stage == "mail"
            else (self._recipients, "recipients")
        )
        if returned:
            buckets, what = self._returned, "bounces of what was sent on"
        if not buckets.burst:
            return None
        key = network_key(session.peer)
        if not buckets.wait(key) if circumstances.dry_run else buckets.take(key):
            return None
        reply = Reply(450, "4.7.1", f"Too many {what} from {key or 'you'}, try again later")
        return Verdict(Action.DEFER, self.name, reply.text, reply)


def _buckets(resources: PolicyResources, what: str, limit: int) -> TokenBuckets:
    """Those of the server's life, with the limit of now; one of 0 counts nothing."""
    made = TokenBuckets(resources.clock, 0.0, 0.0)
    buckets = cast(TokenBuckets, resources.memory.setdefault(f"{Limits.name} {what}", made))
    buckets.burst, buckets.rate = float(limit), limit / MINUTE
    return buckets
