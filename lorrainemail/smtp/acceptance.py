"""Whether a sender and a recipient are accepted, and why.

The decisions of MAIL and RCPT apart from the protocol, so that the doors and ``explain`` make the same ones.
Coroutines that ask tables, policy and store in order. They fail with what those fail with (a table that did
not answer is a TemporaryError). Nothing is remembered here; a dry run changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred

from lorrainemail.addresses import Address
from lorrainemail.envelope import Recipient, Session
from lorrainemail.errors import Reply
from lorrainemail.interfaces import (
    Accepted,
    Account,
    Action,
    Circumstances,
    Expansion,
    Final,
    IContent,
    IPolicy,
    ITables,
    LocalMailbox,
    RelayRight,
    RemoteMailbox,
    Stage,
    Verdict,
)

#: ``store.may_accept``: None, or the reply that says why not.
MayAccept = Callable[[Account, int], Reply | None | Deferred[Reply | None]]

RELAY_DENIED = Reply(550, "5.7.1", "Relaying denied")
#: To an address that we made for somebody else's mail nothing but what became of that may come.
BOUNCES_ONLY = Reply(550, "5.7.1", "This address takes bounces only (MAIL FROM:<>)")


@attrs.frozen(slots=True)
class SenderDecision:
    """``reply`` is None where the sender is accepted. ``relay``: whether the session may send outside."""

    reply: Reply | None
    relay: RelayRight
    verdicts: tuple[Verdict, ...] = ()


@attrs.frozen(slots=True)
class RecipientDecision:
    """``reply`` is None where the recipient is accepted."""

    reply: Reply | None
    expansion: Expansion
    verdicts: tuple[Verdict, ...] = ()


def stopped(verdicts: tuple[Verdict, ...]) -> Reply | None:
    """The reply of a chain that defers or refuses, else None."""
    if verdicts and verdicts[-1].action >= Action.DEFER:
        return verdicts[-1].reply
    return None


def why(verdicts: tuple[Verdict, ...]) -> str:
    """Which check stopped the mail and its reason, for log and trace; "" where none did."""
    if stopped(verdicts) is None:
        return ""
    return f"{verdicts[-1].check}: {verdicts[-1].reason}"


async def judge_stage(policy: IPolicy, circumstances: Circumstances) -> tuple[Verdict, ...]:
    """All verdicts of a stage."""
    verdicts = policy.judge(circumstances)
    if isinstance(verdicts, Deferred):
        verdicts = await verdicts
    return verdicts


async def judge_session(
    stage: Stage,
    tables: ITables,
    policy: IPolicy,
    session: Session,
    relay: RelayRight | None = None,
    dry_run: bool = False,
    spoke_early: Callable[[], bool] | None = None,
) -> tuple[Verdict, ...]:
    """The verdicts on a connection ("connect") or its greeting ("helo").

    :param relay: whether the session may send outside, where that was asked already.
    :param spoke_early: whether the client has spoken before it was greeted.
    """
    if stage not in policy.stages:
        return ()
    return await judge_stage(
        policy,
        Circumstances(stage, session, tables, relay=relay, dry_run=dry_run, spoke_early=spoke_early),
    )


async def judge_sender(
    tables: ITables,
    policy: IPolicy,
    session: Session,
    sender: Address | None,
    account: Account | None,
    relay: RelayRight | None = None,
    dry_run: bool = False,
) -> SenderDecision:
    """MAIL: who logged in sends as himself; then policy.

    :param account: who logged in, None where nobody did.
    :param relay: whether the session may send outside, where that was asked already.
    """
    if relay is None:
        relay = tables.relay_right(session)
    if account is not None and sender is not None:
        owned = tables.owns(account, sender)
        if isinstance(owned, Deferred):
            owned = await owned
        if not owned:
            return SenderDecision(not_owned(account, sender), relay)
    if "mail" not in policy.stages:
        return SenderDecision(None, relay)
    verdicts = await judge_stage(
        policy, Circumstances("mail", session, tables, sender=sender, relay=relay, dry_run=dry_run)
    )
    return SenderDecision(stopped(verdicts), relay, verdicts)


def not_owned(account: Account, sender: Address) -> Reply:
    """The reply to a reverse-path that is not the account's."""
    return Reply(553, "5.7.1", f"You are logged in as {account.address} and may not send as {sender}")


async def judge_recipient(
    tables: ITables,
    policy: IPolicy,
    may_accept: MayAccept,
    session: Session,
    sender: Address | None,
    relay: RelayRight,
    recipient: Recipient,
    size: int = 0,
    dry_run: bool = False,
    earlier: tuple[Verdict, ...] = (),
) -> RecipientDecision:
    """RCPT: is it ours, or may the session relay; does it exist; does a row refuse it; policy; has it room.

    :param size: as declared at MAIL, 0 where unknown.
    :param earlier: the verdicts on connection, greeting and sender.
    """
    expansion = tables.expand(recipient.address)
    if isinstance(expansion, Deferred):
        expansion = await expansion
    if not expansion.local and not relay.allowed:
        return RecipientDecision(RELAY_DENIED, expansion)
    if expansion.refused is not None:
        return RecipientDecision(expansion.refused.reply, expansion)
    if expansion.reversed and sender is not None:
        return RecipientDecision(BOUNCES_ONLY, expansion)
    if isinstance(expansion.finals[0], RemoteMailbox):
        rejected = await _rejected(tables, expansion, sender)
        if rejected is not None:
            return RecipientDecision(rejected, expansion)
    verdicts: tuple[Verdict, ...] = ()
    if "rcpt" in policy.stages:
        verdicts = await judge_stage(
            policy,
            Circumstances(
                "rcpt",
                session,
                tables,
                sender=sender,
                recipient=recipient,
                expansion=expansion,
                relay=relay,
                dry_run=dry_run,
                earlier=earlier,
            ),
        )
        reply = stopped(verdicts)
        if reply is not None:
            return RecipientDecision(reply, expansion, verdicts)
    full: Reply | None = None
    for final in expansion.finals:
        full = await _room(may_accept, final, size)
        # An alias with several members is worth taking while one of them has room; intake sees to the rest.
        if full is None:
            break
    return RecipientDecision(full, expansion, verdicts)


async def _rejected(tables: ITables, expansion: Expansion, sender: Address | None) -> Reply | None:
    """What relay rows with ``reject`` say to this sender, where none of the final recipients is left."""
    reply: Reply | None = None
    for final in expansion.finals:
        if not isinstance(final, RemoteMailbox):
            return None
        route = tables.route(final.address, sender)
        if isinstance(route, Deferred):
            route = await route
        if route.kind != "reject":
            return None
        reply = route.reply
    return reply


async def _room(may_accept: MayAccept, final: Final, size: int) -> Reply | None:
    if not isinstance(final, LocalMailbox):
        return None
    full = may_accept(final.account, size)
    return await full if isinstance(full, Deferred) else full


def for_each(accepted: Sequence[Accepted], verdicts: tuple[Verdict, ...]) -> tuple[Accepted, ...]:
    """The recipients with what each of them wants done, where the verdicts at the final dot say so."""
    for verdict in verdicts:
        if verdict.each:
            accepted = [
                attrs.evolve(one, verdicts=(*one.verdicts, attrs.evolve(verdict, action=action, each=())))
                for one, action in zip(accepted, verdict.each, strict=True)
            ]
    return tuple(accepted)


def changed(content: IContent, verdicts: tuple[Verdict, ...]) -> IContent:
    """The message as the last check that changed it left it."""
    for verdict in verdicts:
        content = verdict.content or content
    return content
