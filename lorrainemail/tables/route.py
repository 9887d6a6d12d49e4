"""The next hop of a remote recipient: the most specific relay row, or the DNS.

Pure: :func:`patterns_of` says which rows could match, the caller gathers them, :func:`route` decides. Relay
rows choose a way and never grant the right to relay. Called by the tables' snapshot for the queue's courier,
at RCPT, and by ``explain``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from lorrainemail.addresses import Address
from lorrainemail.config.values import split_port
from lorrainemail.errors import Reply
from lorrainemail.interfaces import HopHost, Pace, Route
from lorrainemail.tables.rules import RouteRow

#: The pattern of the null reverse-path in ``[relay_by_sender]``.
NULL_SENDER = "<>"


def patterns_of(address: Address | None) -> tuple[str, ...]:
    """All patterns that match an address, the most specific first: itself, its domain, suffixes, ``*``.

    ``*.free.fr`` stands for free.fr itself and all below it, so an exact ``free.fr`` comes before it.
    """
    if address is None:
        return (NULL_SENDER, "*")
    domain = address.domain
    if domain.startswith("["):
        return (address.key, domain, "*")
    labels = domain.split(".")
    suffixes = ("*." + ".".join(labels[i:]) for i in range(len(labels)))
    return (address.key, domain, *suffixes, "*")


def best(rows: Mapping[str, RouteRow], patterns: Sequence[str]) -> RouteRow | None:
    """The row of the most specific pattern."""
    for pattern in patterns:
        if pattern in rows:
            return rows[pattern]
    return None


def route(
    by_recipient: Mapping[str, RouteRow],
    by_sender: Mapping[str, RouteRow],
    recipient: Address,
    sender: Address | None,
    local: bool,
    unknown_users: Mapping[str, RouteRow] | None = None,
    source: tuple[str, ...] = (),
) -> Route:
    """Decide.

    :param by_recipient: rows of ``[relay]``, at least those among ``patterns_of(recipient)``.
    :param by_sender: likewise of ``[relay_by_sender]``; tried first, but where a recipient's row refuses.
    :param local: the recipient's domain is delivered here: then only a row for exactly that address counts.
    :param unknown_users: rows of ``[unknown_users]``, for addresses of a local domain without one.
    :param source: our addresses to connect from, where the row names none.
    """
    found = _decide(by_recipient, by_sender, recipient, sender, local, unknown_users or {})
    return found if found.source or not source else attrs.evolve(found, source=source)


def _decide(
    by_recipient: Mapping[str, RouteRow],
    by_sender: Mapping[str, RouteRow],
    recipient: Address,
    sender: Address | None,
    local: bool,
    unknown_users: Mapping[str, RouteRow],
) -> Route:
    reasons: list[str] = []
    if local:
        reasons.append(f"{recipient.domain} is a local domain: only a row for the whole address counts")
        found = by_recipient.get(recipient.key)
        passed_on = best(unknown_users, patterns_of(recipient)[1:])
        if found is None and passed_on is not None:
            row = f'unknown_users."{passed_on.pattern}" ({passed_on.origin})'
            reasons.append(f"{row} says where its users are that are not here")
            return _by_row(passed_on, recipient, reasons)
    else:
        refusing = best(by_recipient, patterns_of(recipient))
        found = best(by_sender, patterns_of(sender))
        if found is not None and not (refusing and refusing.row.reject):
            who = str(sender) if sender is not None else NULL_SENDER
            reasons.append(f'relay_by_sender."{found.pattern}" ({found.origin}) matches the sender {who}')
            return _by_row(found, recipient, reasons)
        found = refusing
    if found is None:
        reasons.append("no relay row matches: the DNS (MX) decides")
        return Route("mx", recipient.domain, reasons=tuple(reasons))
    reasons.append(f'relay."{found.pattern}" ({found.origin}) is the most specific row for {recipient}')
    return _by_row(found, recipient, reasons)


def rejection(found: RouteRow) -> Reply:
    """What a row with ``reject`` answers."""
    return Reply(550, "5.7.1", found.row.reject)


def _by_row(found: RouteRow, recipient: Address, reasons: Sequence[str]) -> Route:
    row = found.row
    if row.reject:
        return Route(
            "reject",
            recipient.domain,
            reply=rejection(found),
            pattern=found.pattern,
            origin=found.origin,
            reasons=tuple(reasons),
        )
    hosts = () if row.mx else tuple(HopHost(*split_port(text, 25)) for text in row.host)
    return Route(
        "mx" if row.mx else "hosts",
        recipient.domain,
        hosts=hosts,
        share=row.share,
        tls=row.tls,
        credentials=row.credentials,
        pattern=found.pattern,
        origin=found.origin,
        reasons=tuple(reasons),
        source=row.source,
        pace=Pace(row.concurrency, row.rate),
        rewrite=row.rewrite,
        xforward=row.xforward,
    )
