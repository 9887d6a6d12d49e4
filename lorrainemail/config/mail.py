"""Settings of the mail itself: where it goes on to, aliases and commands, limits, the queue, forwarding."""

from __future__ import annotations

from typing import Literal

import attrs

from lorrainemail.config.doc import DAY, HOUR, MB, doc


@attrs.frozen(slots=True)
class RelayRow:
    """One row of ``[relay]`` or ``[relay_by_sender]``: a host string, "mx", a list, or this table."""

    host: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("next hops, name or [literal] with an optional :port", kind="hop")
    )
    tls: str = attrs.field(
        default="opportunistic",
        metadata=doc('"none", "opportunistic", "verified", or "sha256:<fingerprint>"', kind="tls"),
    )
    credentials: str = attrs.field(
        default="", metadata=doc("name of a row in the credentials file", kind="word")
    )
    share: bool = attrs.field(default=False, metadata=doc("try the hosts in random order, not as listed"))
    reject: str = attrs.field(
        default="", metadata=doc("refuse such recipients with these words", kind="text")
    )
    mx: bool = attrs.field(default=False, metadata=doc("ask the DNS for the MX, as if no row matched"))
    source: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "our own addresses to connect from, one IPv4, one IPv6; default: queue.source", kind="ip"
        ),
    )
    rewrite: bool = attrs.field(
        default=False,
        metadata=doc("mail of our own users leaves with its addresses written as the rows of [rewrite] say"),
    )
    concurrency: int = attrs.field(
        default=0, metadata=doc("deliveries at once; 0: queue.per_destination", least=0, most=10_000)
    )
    rate: int = attrs.field(
        default=0, metadata=doc("deliveries a minute at most; 0: no limit", least=0, most=1_000_000)
    )
    xforward: bool = attrs.field(
        default=False,
        metadata=doc("tell the next hop by XFORWARD whom each message came from, where it offers that"),
    )
    line: int = attrs.field(default=0, eq=False)


@attrs.frozen(slots=True)
class DeliverRow:
    """One row of ``[deliver]``: ``"courier:argument"``, or this table."""

    courier: str = attrs.field(
        default="",
        metadata=doc('"lmtp", "pipe", "file", or the name of a plugin\'s courier', kind="word"),
    )
    argument: str = attrs.field(
        default="",
        metadata=doc(
            "for lmtp unix:/path or host:port; for pipe a command line; for file a path below "
            "aliases.file_directories",
            kind="text",
        ),
    )
    accounts: bool = attrs.field(
        default=True,
        metadata=doc(
            "take mail for our own accounts alone; false: for everybody there, and the courier's other side "
            "knows who exists"
        ),
    )
    tls: str = attrs.field(
        default="opportunistic",
        metadata=doc('for lmtp by TCP: "none", "opportunistic", "verified", "sha256:..."', kind="tls"),
    )
    line: int = attrs.field(default=0, eq=False)


@attrs.frozen(slots=True)
class Aliases:
    """Where addresses lead, beside ``aliases`` in the state directory."""

    local: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc("files as aliases(5) describes them, such as /etc/aliases", kind="path"),
    )
    virtual: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("virtual(5) files of Postfix, virtusertable of Sendmail", kind="path")
    )
    file_directories: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc("where a target /file may be; /dev/null may always", kind="path"),
    )
    user_files: tuple[Literal["forward", "qmail"], ...] = attrs.field(
        default=(),
        metadata=doc(
            'files by which accounts that are system users direct their mail: "forward" (~/.forward), '
            '"qmail" (~/.qmail and ~/.qmail-EXTENSION)'
        ),
    )


@attrs.frozen(slots=True)
class Commands:
    """What commands that aliases and rows of ``[deliver]`` lead to may use."""

    time: int = attrs.field(
        default=300,
        metadata=doc("how long one may run", unit="duration", least=1, most=HOUR),
    )
    memory: int = attrs.field(
        default=512 * MB,
        metadata=doc("address space of each of its processes", unit="size", least=16 * MB, most=2**40),
    )
    at_once: int = attrs.field(
        default=5, metadata=doc("that run at the same moment, each command", least=1, most=100)
    )
    helper: str = attrs.field(
        default="",
        metadata=doc(
            "the socket of lorrainemail-helper, which runs configured commands as the user whose mail it is",
            kind="path",
        ),
    )


@attrs.frozen(slots=True)
class Limits:
    message_size: int = attrs.field(
        default=50 * MB, metadata=doc("largest message", unit="size", least=1000, most=2**40)
    )
    recipients: int = attrs.field(
        default=1000, metadata=doc("RCPTs in one transaction", least=1, most=100_000)
    )
    connections: int = attrs.field(
        default=2000, metadata=doc("connections at once, each door", least=1, most=1_000_000)
    )
    connections_per_peer: int = attrs.field(
        default=100,
        metadata=doc(
            "connections at once from one IPv4 address or IPv6 /64, each door", least=1, most=1_000_000
        ),
    )
    disk_reserve: int = attrs.field(
        default=64 * MB,
        metadata=doc("free disk below which no mail is taken", unit="size", least=0, most=2**60),
    )
    queue_messages: int = attrs.field(
        default=200_000, metadata=doc("messages waiting at once", least=1, most=100_000_000)
    )
    recipients_per_hour: int = attrs.field(
        default=2000,
        metadata=doc(
            "recipients that one account may send to in an hour; 0: no limit", least=0, most=1_000_000
        ),
    )
    recipients_per_day: int = attrs.field(
        default=10_000,
        metadata=doc(
            "recipients that one account may send to in a day; 0: no limit", least=0, most=10_000_000
        ),
    )
    messages_per_network: int = attrs.field(
        default=1200,
        metadata=doc(
            "messages that strangers of one IPv4 address or IPv6 /64 may send in a minute; 0: no limit",
            least=0,
            most=1_000_000,
        ),
    )
    recipients_per_network: int = attrs.field(
        default=6000,
        metadata=doc("recipients likewise", least=0, most=10_000_000),
    )
    messages_per_domain: int = attrs.field(
        default=0,
        metadata=doc(
            "messages that strangers may send in the name of one domain in an hour; 0: no limit",
            least=0,
            most=1_000_000,
        ),
    )
    hops: int = attrs.field(
        default=100, metadata=doc("Received fields after which a message loops", least=5, most=1000)
    )


@attrs.frozen(slots=True)
class Queue:
    retry: tuple[int, ...] = attrs.field(
        default=(300, 600, 1200, 1800, 3600, 7200, 14400),
        metadata=doc("waits between tries; the last one repeats", unit="duration", least=1, most=30 * DAY),
    )
    expire: int = attrs.field(
        default=5 * DAY,
        metadata=doc("age at which a message is given up", unit="duration", least=1, most=365 * DAY),
    )
    delay_notice: int = attrs.field(
        default=4 * HOUR,
        metadata=doc(
            'age at which our own users are told that a message is late; "0s": never',
            unit="duration",
            least=0,
            most=365 * DAY,
        ),
    )
    history: int = attrs.field(
        default=14 * DAY,
        metadata=doc(
            'how long is kept what became of what was queued; "0s": not at all',
            unit="duration",
            least=0,
            most=3650 * DAY,
        ),
    )
    history_size: int = attrs.field(
        default=256 * MB,
        metadata=doc("the history's size, at which the oldest goes", unit="size", least=MB, most=2**50),
    )
    concurrency: int = attrs.field(
        default=40, metadata=doc("deliveries to other servers at once", least=1, most=10_000)
    )
    per_destination: int = attrs.field(
        default=20, metadata=doc("deliveries to one destination at once", least=1, most=10_000)
    )
    source: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "our own addresses to connect from, one IPv4, one IPv6; default: as the system chooses", kind="ip"
        ),
    )
    port: int = attrs.field(
        default=25, metadata=doc("port of MX hosts (tests and labs change it)", least=1, most=65535)
    )


@attrs.frozen(slots=True)
class OutgoingTls:
    """What other domains want of the TLS of mail that is sent to them, where no row of ``[relay]``
    decides."""

    mta_sts: bool = attrs.field(
        default=True, metadata=doc("keep to the MTA-STS policies of other domains (RFC 8461)")
    )
    dane: bool = attrs.field(
        default=True,
        metadata=doc("keep to the TLSA records of their servers (RFC 7672); needs [dns] trusted = true"),
    )


@attrs.frozen(slots=True)
class TlsReports:
    """Reports of how TLS with mail servers went (RFC 8460)."""

    send: bool = attrs.field(
        default=True,
        metadata=doc("tell other domains once a day how TLS with their servers went, where they ask for it"),
    )
    mailbox: str = attrs.field(
        default="",
        metadata=doc(
            "the account whose incoming reports are read for the command tls-report", kind="address"
        ),
    )
    keep: int = attrs.field(
        default=400 * DAY,
        metadata=doc("how long what reports say is kept", unit="duration", least=DAY, most=3650 * DAY),
    )


@attrs.frozen(slots=True)
class Forwarding:
    """Mail of others that aliases and filters send on to other servers."""

    srs: bool = attrs.field(
        default=True,
        metadata=doc(
            "send it under an address of ours that leads back to its sender (SRS), so that it passes the "
            "next server's SPF check"
        ),
    )
    srs_domain: str = attrs.field(
        default="",
        metadata=doc(
            "the domain of such addresses; default: that of the alias, else the first local domain",
            kind="domain",
        ),
    )


@attrs.frozen(slots=True)
class Store:
    format: Literal["maildir", "mbox"] = attrs.field(
        default="maildir", metadata=doc("how mail of new accounts is kept")
    )
    mbox_domains: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("domains whose accounts are kept as mbox", kind="domain")
    )


@attrs.frozen(slots=True)
class Trace:
    keep: int = attrs.field(
        default=30 * DAY,
        metadata=doc(
            "how long what happened to messages is remembered", unit="duration", least=HOUR, most=3650 * DAY
        ),
    )
