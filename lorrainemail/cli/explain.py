"""``lorrainemail explain ADDRESS``: what would happen to such a message, and why.

Composed of the functions that the server itself calls: the tables' ``expand``, ``relay_right`` and
``route``, the decisions of MAIL and RCPT in :mod:`lorrainemail.smtp.acceptance` with the policy chain, and
:func:`lorrainemail.delivery.hops.find_hops`. A dry run: it asks the DNS and writes no state. It reads the
tables as they stand on disk and needs no running server.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThreadPool

import lorrainemail.plugins
from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.config.load import load, locate
from lorrainemail.config.model import Settings
from lorrainemail.config.values import Wrong, endpoint_port, parse_ip
from lorrainemail.delivery.hops import NextHops, OurEnds, find_hops
from lorrainemail.delivery.remote import plan_of
from lorrainemail.envelope import Door, Envelope, Recipient, Session
from lorrainemail.errors import MailError, Reply
from lorrainemail.interfaces import (
    Accepted,
    Account,
    Action,
    Circumstances,
    Expansion,
    Handed,
    IPolicy,
    ITables,
    LocalMailbox,
    RemoteMailbox,
    Route,
    Step,
    Verdict,
    later,
)
from lorrainemail.interfaces import (
    Final as FinalRecipient,
)
from lorrainemail.net.resolver import Resolver
from lorrainemail.net.tls import ClientTls
from lorrainemail.ops.content import Content
from lorrainemail.setup.outgoing import policies_of
from lorrainemail.setup.policy import make_policy
from lorrainemail.smtp.acceptance import (
    MayAccept,
    SenderDecision,
    for_each,
    judge_recipient,
    judge_sender,
    judge_session,
    judge_stage,
    stopped,
)
from lorrainemail.tables.backend import find_backend
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.snapshot import Snapshot
from lorrainemail.tlspolicy.plan import HostPolicy, Plan

#: Who asks where nothing is said: an address of nobody's (RFC 5737 §3).
STRANGER = "192.0.2.1"

#: Octets of a message that are read.
MAX_MESSAGE: Final = 100 * 10**6

FindHops = Callable[[Route], Awaitable[NextHops]]
FindPlan = Callable[[Route, NextHops], Awaitable[Plan | None]]


def configure(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "explain",
        help="what would happen to a message, and why",
        description="Say what would happen to a message for an address, and why: accepted or refused at "
        "which verb, aliases, which mailbox, or which relay row or mail servers. Nothing is sent or written.",
    )
    parser.add_argument("address", metavar="ADDRESS", help="the recipient")
    parser.add_argument(
        "--from", dest="sender", metavar="ADDRESS", help='the sender; "" or "<>" for the null one'
    )
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--ip", metavar="IP", help=f"the client's address (default: a stranger's, {STRANGER})")
    who.add_argument("--as", dest="account", metavar="ACCOUNT", help="logged in as that account")
    parser.add_argument("--helo", metavar="NAME", help="what the client greets with (default: its address)")
    parser.add_argument("--message", metavar="FILE", help='the message itself; "-" for standard input')
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


@attrs.frozen(slots=True)
class Question:
    """What is asked: a recipient, a sender, and who sends."""

    recipient: Address
    sender: Address | None
    peer: str
    account: Account | None = None
    helo: str = ""
    message: bytes | None = None

    @property
    def session(self) -> Session:
        """The facts of such a session."""
        door: Door = "smtp" if self.account is None else "submission"
        greeting = f"[IPv6:{self.peer}]" if ":" in self.peer else f"[{self.peer}]"
        account = "" if self.account is None else self.account.address.key
        return Session("explain", door, self.peer, helo=self.helo or greeting, esmtp=True, account=account)


@attrs.frozen(slots=True)
class Stage:
    """One verb: ``reply`` is None where it is accepted."""

    verb: str
    reply: Reply | None = None
    verdicts: tuple[Verdict, ...] = ()
    words: str = ""


@attrs.frozen(slots=True)
class Way:
    """Where one final recipient's copy goes; ``route`` and ``hops`` for those elsewhere.

    ``rewritten``: under an address of ours that leads back to its sender. ``plan``: what the domain wants of
    TLS.
    """

    final: FinalRecipient
    route: Route | None = None
    hops: NextHops | None = None
    rewritten: bool = False
    plan: Plan | None = None


@attrs.frozen(slots=True)
class Explanation:
    """The answer. ``stages`` end at the verb that refuses."""

    question: Question
    stages: tuple[Stage, ...]
    expansion: Expansion | None = None
    ways: tuple[Way, ...] = ()

    @property
    def refusal(self) -> Stage | None:
        """The verb that refuses, None where the message would be taken."""
        return next((stage for stage in self.stages if stage.reply is not None), None)


async def explain(
    question: Question,
    tables: ITables,
    policy: IPolicy,
    may_accept: MayAccept,
    find: FindHops,
    secure: FindPlan | None = None,
) -> Explanation:
    """Take the question through the server's own decisions, verb by verb."""
    session, stages = question.session, list[Stage]()
    earlier: tuple[Verdict, ...] = ()
    connected = attrs.evolve(session, helo="", esmtp=False, account="")
    for verb, facts in (("connect", connected), ("helo", session)):
        verdicts = await judge_session(
            "connect" if verb == "connect" else "helo", tables, policy, facts, dry_run=True
        )
        stages.append(Stage(verb, stopped(verdicts), verdicts))
        earlier += verdicts
        if stages[-1].reply is not None:
            return Explanation(question, tuple(stages))
    try:
        decision = await judge_sender(
            tables, policy, session, question.sender, question.account, dry_run=True
        )
        words = f"may{'' if decision.relay.allowed else ' not'} send elsewhere: {decision.relay.reason}"
        stages.append(Stage("mail", decision.reply, decision.verdicts, words))
        if decision.reply is not None:
            return Explanation(question, tuple(stages))
        earlier += decision.verdicts
        recipient = Recipient(question.recipient, str(question.recipient))
        judged = await judge_recipient(
            tables,
            policy,
            may_accept,
            session,
            question.sender,
            decision.relay,
            recipient,
            dry_run=True,
            earlier=earlier,
        )
    except MailError as error:  # a backend that does not answer
        stages.append(Stage("rcpt", error.reply, words=error.detail))
        return Explanation(question, tuple(stages))
    stages.append(Stage("rcpt", judged.reply, judged.verdicts))
    ways: list[Way] = []
    if judged.reply is None and question.message is not None and "data" in policy.stages:
        accepted = Accepted(recipient, judged.expansion, judged.verdicts)
        stages.append(await _message(question, question.message, tables, policy, decision, accepted, earlier))
        if stages[-1].reply is not None:
            return Explanation(question, tuple(stages), judged.expansion)
    if judged.reply is None:
        ways = [await _way(final, question, tables, find, secure) for final in judged.expansion.finals]
    return Explanation(question, tuple(stages), judged.expansion, tuple(ways))


async def _message(
    question: Question,
    message: bytes,
    tables: ITables,
    policy: IPolicy,
    decision: SenderDecision,
    accepted: Accepted,
    earlier: tuple[Verdict, ...],
) -> Stage:
    """The checks of the final dot."""
    content = Content(message)
    envelope = Envelope("explain", question.sender, (accepted.recipient,), size=content.size)
    verdicts = await judge_stage(
        policy,
        Circumstances(
            "data",
            question.session,
            tables,
            question.sender,
            relay=decision.relay,
            envelope=envelope,
            content=content,
            dry_run=True,
            accepted=(accepted,),
            earlier=earlier,
        ),
    )
    reply = stopped(verdicts)
    (final,) = for_each((accepted,), verdicts)
    junk = any(one.action is Action.JUNK for one in (*earlier, *verdicts, *final.verdicts))
    return Stage("data", reply, verdicts, "goes to Junk" if junk and reply is None else "")


async def _way(
    final: FinalRecipient, question: Question, tables: ITables, find: FindHops, secure: FindPlan | None
) -> Way:
    if not isinstance(final, RemoteMailbox):
        return Way(final)
    route = await later(tables.route(final.address, question.sender))
    rewritten = (
        final.forwarded and question.sender is not None and await later(tables.rewrites(question.sender))
    )
    hops = await find(route)
    return Way(final, route, hops, rewritten, None if secure is None else await secure(route, hops))


# -- the command -----------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""
    located = locate(arguments.config, arguments.state)
    settings = load(located)
    source = find_backend(settings.tables, lorrainemail.plugins).open(settings.state)
    rules = Rules.of(settings)
    tables = Snapshot(source.load(rules), rules)
    status: list[int] = []

    async def ask(reactor: Any) -> None:
        try:
            question = await ask_what(arguments, tables)
        except AddressError as error:
            print(f"lorrainemail explain: {error}", file=sys.stderr)
            status.append(2)
            return
        except OSError as error:
            print(f"lorrainemail explain: {error.filename}: {error.strerror}", file=sys.stderr)
            status.append(1)
            return
        if question is None:
            print(f"lorrainemail explain: there is no account {arguments.account}", file=sys.stderr)
            status.append(1)
            return
        resolver = Resolver(reactor, settings.dns.resolvers, settings.dns.trusted)
        policy = make_policy(settings, reactor, resolver)

        async def find(route: Route) -> NextHops:
            return await find_hops(
                route, resolver, our_ends(settings), settings.queue.port, settings.dns.ipv6
            )

        def fetcher() -> Any:
            from lorrainemail.certs.fetch import Fetcher

            return Fetcher(reactor, ClientTls(settings.tls.trust), resolver)

        in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
        policies = policies_of(settings, reactor, resolver, fetcher, in_thread)

        async def secure(route: Route, hops: NextHops) -> Plan | None:
            return await plan_of(policies, route, hops)

        found = await explain(question, tables, policy, _room, find, secure)
        if arguments.json:
            print(json.dumps(as_json(found), ensure_ascii=False))
        else:
            print("\n".join(as_text(found)))
        status.append(0)

    try:
        react(lambda reactor: Deferred.fromCoroutine(ask(reactor)))
    except SystemExit as end:
        return status[0] if status else int(end.code or 1)


def _room(account: Account, octets: int) -> None:
    """A mailbox's room is not looked at: its index is the running server's."""


def our_ends(settings: Settings) -> OurEnds:
    """How this server is recognised among next hops."""
    ends = (endpoint_port(endpoint) for endpoint in settings.listen.smtp)
    return OurEnds(settings.hostname, tuple(end for end in ends if end is not None))


async def ask_what(arguments: argparse.Namespace, tables: ITables) -> Question | None:
    """The question that the arguments ask; None where the account does not exist.

    :raises AddressError: where an argument is no address.
    """
    recipient = _recipient(arguments.address)
    account: Account | None = None
    if arguments.account is not None:
        account = await later(tables.login(arguments.account))
        if account is None:
            return None
    if arguments.sender is not None:
        text = arguments.sender.strip().removeprefix("<").removesuffix(">")
        sender = parse_address(text) if text else None
    else:
        sender = account.address if account is not None else None
    try:
        peer = parse_ip(arguments.ip) if arguments.ip is not None else STRANGER
    except Wrong as error:
        raise AddressError(f"{error.what} ({error.mend})") from None
    message = None if arguments.message is None else _read(arguments.message)
    return Question(recipient, sender, peer, account, arguments.helo or "", message)


def _read(path: str) -> bytes:
    """A message with the line ends of the wire."""
    if path == "-":
        octets = sys.stdin.buffer.read(MAX_MESSAGE)
    else:
        with open(path, "rb") as file:
            octets = file.read(MAX_MESSAGE)
    return b"\r\n".join(octets.replace(b"\r\n", b"\n").split(b"\n"))


def _recipient(text: str) -> Address:
    text = text.strip().removeprefix("<").removesuffix(">")
    if text.lower() == "postmaster":  # RFC 5321 §4.1.1.3
        return Address(text, "")
    return parse_address(text)


# -- for people ------------------------------------------------------------------------------------------

_VERBS = {"connect": "connection", "helo": "EHLO", "mail": "MAIL", "rcpt": "RCPT", "data": "message"}


def as_text(found: Explanation) -> Iterator[str]:
    """The answer in lines."""
    question = found.question
    if question.account is not None:
        who = f"logged in as {question.account.address.shown}"
    else:
        who = f"from {question.peer}" + (" (a stranger)" if question.peer == STRANGER else "")
    sender = question.sender.shown if question.sender is not None else "<>"
    yield f"A message to {question.recipient.shown}, sender {sender}, {who}:"
    yield ""
    for stage in found.stages:
        yield f"{_VERBS[stage.verb]}: {stage.reply or 'accepted'}{f' ({stage.words})' if stage.words else ''}"
        yield from (f"  {v.check}: {v.action.name.lower()} {v.reason}".rstrip() for v in stage.verdicts)
    if found.expansion is not None:
        if found.expansion.refused is not None:
            yield from _steps(found.expansion.refused.path)
        else:
            yield from (f"  left out: {_step(note)}" for note in found.expansion.notes)
    yield ""
    if found.refusal is not None:
        assert found.refusal.reply is not None
        verb, lasting = _VERBS[found.refusal.verb], found.refusal.reply.permanent
        yield f"Refused at {verb}{'' if lasting else ' for now'}: {found.refusal.reply}"
        return
    if question.message is None:
        yield "Accepted, unless the message itself is refused at its end (size, loops, content)."
    else:
        yield "Accepted."
    for way in found.ways:
        yield ""
        yield from _way_text(way)


def _way_text(way: Way) -> Iterator[str]:
    final = way.final
    if isinstance(final, LocalMailbox):
        folder = f"folder {final.folder} (INBOX where it does not exist)" if final.folder else "INBOX"
        yield f"→ {final.account.address.shown}, {folder}, kept as {final.account.format}"
        if final.account.quota or final.account.quota_messages:
            yield "    (the mailbox has a quota; whether it is full is not looked at)"
        yield from _steps(final.path)
        return
    if isinstance(final, Handed):
        row = final.argument or "as its row says when it is tried"
        yield f"→ {final.address.shown}, handed to {final.courier}, through the queue: {row}"
        yield from _owner(final)
        yield from _steps(final.path)
        return
    yield f"→ {final.address.shown}, elsewhere, through the queue"
    yield from _owner(final)
    yield from _steps(final.path)
    assert way.route is not None and way.hops is not None
    yield from (f"    {reason}" for reason in way.hops.reasons or way.route.reasons)
    extras = [f"TLS {way.route.tls}"] if way.route.tls != "opportunistic" else []
    extras += [f"login {way.route.credentials}"] if way.route.credentials else []
    extras += [f"from {' and '.join(way.route.source)}"] if way.route.source else []
    extras += [f"at most {way.route.pace.concurrency} at once"] if way.route.pace.concurrency else []
    extras += [f"at most {way.route.pace.rate} a minute"] if way.route.pace.rate else []
    if extras:
        yield f"    with {', '.join(extras)}"
    if way.route.rewrite:
        yield "    our own users' addresses are written as [rewrite] says"
    if way.rewritten:
        yield "    its sender becomes an address of ours that leads back to him (SRS)"
    for number, hop in enumerate(way.hops.hops, 1):
        yield f"    {number}. {hop}"
        if way.plan is not None:
            policy = way.plan.of(hop.host)
            yield f"       {'not used: ' if policy.use == 'wait' else ''}{policy.words}"
    if way.plan is not None and way.plan.fault:
        yield f"    its MTA-STS policy cannot be had: {way.plan.words}"
    if way.plan is not None and way.plan.note:
        yield f"    {way.plan.note}"
    if way.hops.reply is not None:
        kept = way.hops.ours or way.hops.reply.temporary
        fate = "would wait in the queue" if kept else "would come back to the sender"
        yield f"    {fate}: {way.hops.reply}"


def _owner(final: FinalRecipient) -> Iterator[str]:
    if final.owner is not None:
        yield f"    sent by {final.owner}, the owner of the list, who is told of failures"


def _steps(path: tuple[Step, ...]) -> Iterator[str]:
    yield from (f"    {_step(step)}" for step in path)


def _step(step: Step) -> str:
    return f"{step.what}  [{step.origin}]" if step.origin.file else step.what


# -- for programs ----------------------------------------------------------------------------------------


def as_json(found: Explanation) -> dict[str, Any]:
    """The answer as one object."""
    question, refusal = found.question, found.refusal
    expansion = found.expansion
    return {
        "version": 1,
        "recipient": str(question.recipient),
        "sender": str(question.sender) if question.sender is not None else "",
        "door": question.session.door,
        "ip": question.peer,
        "account": question.session.account,
        "accepted": refusal is None,
        "refused_at": refusal.verb if refusal is not None else None,
        "reply": str(refusal.reply) if refusal is not None else None,
        "stages": [
            {
                "verb": stage.verb,
                "reply": str(stage.reply) if stage.reply is not None else None,
                "words": stage.words,
                "verdicts": [
                    {"check": v.check, "action": v.action.name.lower(), "reason": v.reason}
                    for v in stage.verdicts
                ],
            }
            for stage in found.stages
        ],
        "local": expansion.local if expansion is not None else None,
        "path": [_step_json(s) for s in expansion.refused.path] if expansion and expansion.refused else [],
        "notes": [_step_json(step) for step in expansion.notes] if expansion is not None else [],
        "finals": [_way_json(way) for way in found.ways],
    }


def _step_json(step: Step) -> dict[str, Any]:
    return {"what": step.what, "file": step.origin.file, "line": step.origin.line}


def _way_json(way: Way) -> dict[str, Any]:
    final = way.final
    answer: dict[str, Any] = {
        "address": str(final.address),
        "path": [_step_json(step) for step in final.path],
        "owner": str(final.owner) if final.owner is not None else None,
    }
    if isinstance(final, LocalMailbox):
        account = final.account
        return {"kind": "local", "account": account.address.key, "folder": final.folder, **answer}
    if isinstance(final, Handed):
        return {
            "kind": "handed",
            "courier": final.courier,
            "argument": final.argument,
            "user": final.user,
            **answer,
        }
    assert way.route is not None and way.hops is not None
    return {
        "kind": "remote",
        **answer,
        "forwarded": final.forwarded,
        "route": {
            "kind": way.route.kind,
            "pattern": way.route.pattern,
            "file": way.route.origin.file,
            "line": way.route.origin.line,
            "tls": way.route.tls,
            "credentials": way.route.credentials,
            "source": list(way.route.source),
            "concurrency": way.route.pace.concurrency,
            "rate": way.route.pace.rate,
        },
        "rewritten": way.rewritten,
        "reasons": list(way.hops.reasons or way.route.reasons),
        "hops": [
            {
                "host": hop.host,
                "port": hop.port,
                "preference": hop.preference,
                "addresses": list(hop.addresses),
                "security": None if way.plan is None else _policy_json(way.plan.of(hop.host)),
            }
            for hop in way.hops.hops
        ],
        "tls_fault": way.plan.fault if way.plan is not None else "",
        "reply": str(way.hops.reply) if way.hops.reply is not None else None,
    }


def _policy_json(policy: HostPolicy) -> dict[str, Any]:
    return {
        "use": policy.use,
        "words": policy.words,
        "policy": policy.published.type,
        "authentic": policy.authentic,
        "records": list(policy.published.strings),
    }
