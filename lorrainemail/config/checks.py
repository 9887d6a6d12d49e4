"""Settings of what is thought of a message: policy, filters, DMARC and DKIM."""

from __future__ import annotations

from typing import Literal

import attrs

from lorrainemail.config.doc import DAY, HOUR, MB, doc


@attrs.frozen(slots=True)
class Policy:
    checks: tuple[str, ...] = attrs.field(
        default=(
            "early_talker",
            "limits",
            "account_limits",
            "helo",
            "reverse_name",
            "helo_name",
            "dns_lists",
            "sender_rates",
            "sender_domain",
            "loops",
            "mailauth",
            "greylist",
            "classifier",
        ),
        metadata=doc("the checks, in order; built-in or plugins", kind="word"),
    )
    bare_line_ends: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc("networks whose bare CR and LF in messages are mended, not refused", kind="network"),
    )
    hide_submitter: bool = attrs.field(
        default=True, metadata=doc("leave the address of a logged-in sender out of Received")
    )
    fail_closed: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "checks without which no mail is taken (451) where they fail or do not answer", kind="word"
        ),
    )
    block_lists: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            'DNS lists of bad peers for the check dns_lists, as "zen.spamhaus.org", or with the answers that '
            'count: "list.example=127.0.0.2-11"',
            kind="dns_list",
        ),
    )
    pass_lists: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc("DNS lists of good peers, which are spared by dns_lists and greylist", kind="dns_list"),
    )
    greylist_wait: int = attrs.field(
        default=240,
        metadata=doc(
            "how long a stranger's first message is deferred by the check greylist",
            unit="duration",
            least=1,
            most=HOUR,
        ),
    )
    trusted_sealers: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "domains whose ARC seals are believed: what they saw pass is not held against the sender",
            kind="domain",
        ),
    )
    arc: bool = attrs.field(
        default=True,
        metadata=doc("seal what aliases and scripts send on, where one of our domains has DKIM keys"),
    )


@attrs.frozen(slots=True)
class FilterRow:
    """One row of ``[filters]``: a program that sees finished messages; the row's name is its check's."""

    kind: Literal["milter", "rspamd", "clamav", "spamd"] = attrs.field(
        default="milter", metadata=doc("the protocol that it speaks")
    )
    address: str = attrs.field(
        default="",
        metadata=doc('where it listens: "unix:/run/filter.sock" or "tcp:127.0.0.1:8891"', kind="client"),
    )
    timeout: int = attrs.field(
        default=30,
        metadata=doc("how long its answer is waited for", unit="duration", least=1, most=300),
    )
    size: int = attrs.field(
        default=25 * MB,
        metadata=doc("larger messages are not shown to it", unit="size", least=1000, most=2**40),
    )
    fail: Literal["open", "closed"] = attrs.field(
        default="open", metadata=doc("whether mail passes or is deferred (451) where it fails")
    )
    mail: Literal["in", "out", "both"] = attrs.field(
        default="in", metadata=doc("mail of strangers, mail of our own users, or both")
    )
    modify: bool = attrs.field(
        default=True, metadata=doc("a milter may change headers and body; else it may only judge")
    )


@attrs.frozen(slots=True)
class Dmarc:
    send_reports: bool = attrs.field(
        default=False, metadata=doc("send other domains the daily aggregate reports that they ask for")
    )
    failure_reports: bool = attrs.field(
        default=False, metadata=doc("send a report of single failures where a domain asks, headers only")
    )
    mailbox: str = attrs.field(
        default="",
        metadata=doc("the account whose incoming reports are read for the command dmarc", kind="address"),
    )
    keep: int = attrs.field(
        default=400 * DAY,
        metadata=doc("how long what reports say is kept", unit="duration", least=DAY, most=3650 * DAY),
    )


@attrs.frozen(slots=True)
class Dkim:
    rotate: int = attrs.field(
        default=0,
        metadata=doc(
            'age at which keys are replaced, as "180d"; 0s: never by itself',
            unit="duration",
            least=0,
            most=3650 * DAY,
        ),
    )
