"""The checks ``reverse_name`` and ``helo_name``: whether a stranger's address and greeting have names.

Neither refuses by itself, as RFC 5321 §4.1.4 wants it: they tag, and ``[actions]`` may make more of that.
What the DNS does not answer is no verdict. Off unless ``[actions]`` has a word for them.
"""

from __future__ import annotations

from typing import ClassVar, Final

from twisted.internet.defer import Deferred
from zope.interface import implementer

from lorrainemail.errors import Reply
from lorrainemail.interfaces import (
    Action,
    Circumstances,
    DnsFailure,
    IPolicyCheck,
    IResolver,
    Stage,
    Verdict,
)
from lorrainemail.net.peers import canonical, is_loopback
from lorrainemail.policy.checks import is_stranger

#: Names of a client of which one must lead back to it.
MAX_NAMES: Final = 10


async def confirmed_name(resolver: IResolver, peer: str) -> str:
    """A name of an address that leads back to it, "" where it has none.

    :raises DnsFailure: where a question that matters has no answer.
    """
    silent: DnsFailure | None = None
    try:
        names = await resolver.ptr(peer)
    except DnsFailure as failure:
        if failure.kind == "temporary":
            raise
        return ""
    for name in names[:MAX_NAMES]:
        try:
            if peer in await resolver.addresses(name):
                return name
        except DnsFailure as failure:
            if failure.kind == "temporary":
                silent = failure
    if silent is not None:
        raise silent
    return ""


@implementer(IPolicyCheck)
class ReverseName:
    """Tags strangers whose address has no name that leads back to it."""

    name: ClassVar[str] = "reverse_name"

    def __init__(self, resolver: IResolver) -> None:
        self.stages: frozenset[Stage] = frozenset({"helo"})
        self._resolver = resolver

    def judge(self, circumstances: Circumstances) -> Verdict | None | Deferred[Verdict | None]:
        peer = circumstances.session.peer
        if not peer or is_loopback(peer) or not is_stranger(circumstances):
            return None
        return Deferred.fromCoroutine(self._judge(peer))

    async def _judge(self, peer: str) -> Verdict | None:
        try:
            name = await confirmed_name(self._resolver, peer)
        except DnsFailure as failure:
            return Verdict(Action.CONTINUE, self.name, f"not known: {failure}")
        if name:
            return Verdict(Action.CONTINUE, self.name, f"{peer} is {name}")
        reply = Reply(550, "5.7.25", f"{peer} has no name in the DNS that leads back to it")  # RFC 7372 §3.2
        return Verdict(Action.TAG, self.name, reply.text, reply)


@implementer(IPolicyCheck)
class HeloName:
    """Tags strangers that greet with a name that does not exist, or with an address that is not theirs."""

    name: ClassVar[str] = "helo_name"

    def __init__(self, resolver: IResolver) -> None:
        self.stages: frozenset[Stage] = frozenset({"helo"})
        self._resolver = resolver

    def judge(self, circumstances: Circumstances) -> Verdict | None | Deferred[Verdict | None]:
        session = circumstances.session
        if is_loopback(session.peer) or not is_stranger(circumstances):
            return None
        greeting = session.helo
        if greeting.startswith("["):
            literal = canonical(greeting[1:-1].lower().removeprefix("ipv6:"))
            return None if literal == session.peer else self._tag(f"{greeting} is not your address")
        if "." not in greeting.rstrip("."):
            return self._tag(f"{greeting} is no full host name")
        return Deferred.fromCoroutine(self._judge(greeting))

    async def _judge(self, greeting: str) -> Verdict | None:
        try:
            await self._resolver.addresses(greeting)
        except DnsFailure as failure:
            if failure.kind == "temporary":
                return Verdict(Action.CONTINUE, self.name, f"not known: {failure}")
            return self._tag(f"{greeting}, your greeting, has no address in the DNS")
        return None

    def _tag(self, words: str) -> Verdict:
        return Verdict(Action.TAG, self.name, words, Reply(550, "5.7.1", words))
