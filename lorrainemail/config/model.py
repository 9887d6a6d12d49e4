"""The configuration as a frozen tree of values: what each setting is, its default, its words.

Owned here: names, types, defaults and one sentence of documentation a setting (the reference in docs/ is made
from it). :mod:`lorrainemail.config.load` fills it from TOML; :mod:`lorrainemail.service` hands the parts to
their packages as plain values. No package below ``service`` takes the whole tree.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs

MB = 10**6
HOUR = 3600
DAY = 86400

#: The doors of ``[listen]``, in the order in which they are bound.
DOORS = ("smtp", "submission", "submissions", "pop3", "pop3s", "imap", "imaps", "dns")


def _doc(text: str, **more: Any) -> dict[str, Any]:
    """Field metadata: the setting's sentence in the reference. ``unit`` is "size" or "duration"."""
    return {"doc": text, **more}


@attrs.frozen(slots=True)
class RelayRow:
    """One row of ``[relay]`` or ``[relay_by_sender]``: a host string, "mx", a list, or this table."""

    host: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("next hops, name or [literal] with an optional :port")
    )
    tls: str = attrs.field(
        default="opportunistic",
        metadata=_doc('"none", "opportunistic", "verified", or "sha256:<fingerprint>"'),
    )
    credentials: str = attrs.field(default="", metadata=_doc("name of a row in the credentials file"))
    share: bool = attrs.field(default=False, metadata=_doc("try the hosts in random order, not as listed"))
    reject: str = attrs.field(default="", metadata=_doc("refuse such recipients with these words"))
    mx: bool = attrs.field(default=False, metadata=_doc("ask the DNS for the MX, as if no row matched"))
    line: int = attrs.field(default=0, eq=False)


@attrs.frozen(slots=True)
class Listen:
    """Lists of Twisted endpoint strings; a door left out is closed."""

    smtp: tuple[str, ...] = attrs.field(default=(), metadata=_doc("mail from other servers (MX)"))
    submission: tuple[str, ...] = attrs.field(default=(), metadata=_doc("mail from our users, STARTTLS"))
    submissions: tuple[str, ...] = attrs.field(default=(), metadata=_doc("mail from our users, TLS at once"))
    pop3: tuple[str, ...] = attrs.field(default=(), metadata=_doc("POP3 with STLS"))
    pop3s: tuple[str, ...] = attrs.field(default=(), metadata=_doc("POP3, TLS at once"))
    imap: tuple[str, ...] = attrs.field(default=(), metadata=_doc("IMAP4 with STARTTLS"))
    imaps: tuple[str, ...] = attrs.field(default=(), metadata=_doc("IMAP4, TLS at once"))
    dns: tuple[str, ...] = attrs.field(default=(), metadata=_doc("the authoritative DNS door"))


@attrs.frozen(slots=True)
class Tls:
    certificate: str = attrs.field(default="", metadata=_doc("PEM chain; default: the self-signed one"))
    key: str = attrs.field(default="", metadata=_doc("PEM private key of the certificate"))
    old_peers: bool = attrs.field(
        default=False, metadata=_doc("accept TLS 1.0 and 1.1 on the smtp door, for very old servers")
    )
    trust: str = attrs.field(
        default="", metadata=_doc("PEM of authorities trusted for next hops; default: the system's")
    )


@attrs.frozen(slots=True)
class Auth:
    plaintext: Literal["never", "loopback"] = attrs.field(
        default="never", metadata=_doc("logins without TLS: never, or only on listeners bound to loopback")
    )
    on_smtp: bool = attrs.field(default=False, metadata=_doc("offer AUTH on the smtp door too"))


@attrs.frozen(slots=True)
class Dns:
    resolvers: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("address:port of resolvers; default: the system's")
    )
    trusted: bool = attrs.field(default=False, metadata=_doc("believe the resolvers' DNSSEC verdict (AD)"))
    ipv6: bool = attrs.field(default=True, metadata=_doc("use IPv6 to reach other servers"))
    zones: tuple[str, ...] = attrs.field(default=(), metadata=_doc("zone files that the dns door serves"))


@attrs.frozen(slots=True)
class Limits:
    message_size: int = attrs.field(default=50 * MB, metadata=_doc("largest message", unit="size"))
    recipients: int = attrs.field(default=1000, metadata=_doc("RCPTs in one transaction"))
    connections: int = attrs.field(default=2000, metadata=_doc("connections at once, each door"))
    connections_per_peer: int = attrs.field(
        default=100, metadata=_doc("connections at once from one IPv4 address or IPv6 /64, each door")
    )
    disk_reserve: int = attrs.field(
        default=64 * MB, metadata=_doc("free disk below which no mail is taken", unit="size")
    )
    queue_messages: int = attrs.field(default=200_000, metadata=_doc("messages waiting at once"))
    hops: int = attrs.field(default=100, metadata=_doc("Received fields after which a message loops"))


@attrs.frozen(slots=True)
class Queue:
    retry: tuple[int, ...] = attrs.field(
        default=(300, 600, 1200, 1800, 3600, 7200, 14400),
        metadata=_doc("waits between tries; the last one repeats", unit="duration"),
    )
    expire: int = attrs.field(
        default=5 * DAY, metadata=_doc("age at which a message is given up", unit="duration")
    )
    concurrency: int = attrs.field(default=40, metadata=_doc("deliveries to other servers at once"))
    per_destination: int = attrs.field(default=5, metadata=_doc("deliveries to one destination at once"))
    port: int = attrs.field(default=25, metadata=_doc("port of MX hosts (tests and labs change it)"))


@attrs.frozen(slots=True)
class Policy:
    checks: tuple[str, ...] = attrs.field(
        default=("limits", "helo", "sender_domain", "loops"),
        metadata=_doc("the checks, in order; built-in or plugins"),
    )
    bare_line_ends: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("networks whose bare CR and LF in messages are mended, not refused")
    )
    hide_submitter: bool = attrs.field(
        default=True, metadata=_doc("leave the address of a logged-in sender out of Received")
    )


@attrs.frozen(slots=True)
class Store:
    format: Literal["maildir", "mbox"] = attrs.field(
        default="maildir", metadata=_doc("how mail of new accounts is kept")
    )
    mbox_domains: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("domains whose accounts are kept as mbox")
    )


@attrs.frozen(slots=True)
class Trace:
    keep: int = attrs.field(
        default=30 * DAY, metadata=_doc("how long what happened to messages is remembered", unit="duration")
    )


@attrs.frozen(slots=True)
class Settings:
    """The whole configuration. ``file`` is where it was read, "" for the embedded default."""

    hostname: str = attrs.field(default="", metadata=_doc("our name, as in the greeting and the MX record"))
    local_domains: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("domains whose mail is delivered here")
    )
    relay_networks: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("addresses that may send anywhere without login")
    )
    relay_domains: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("domains for which we are a backup MX")
    )
    relay: dict[str, RelayRow] = attrs.field(
        factory=dict, metadata=_doc("preferred next hops by recipient; the most specific pattern wins")
    )
    relay_by_sender: dict[str, RelayRow] = attrs.field(
        factory=dict, metadata=_doc("preferred next hops by sender, tried first")
    )
    state: str = attrs.field(default="", metadata=_doc("the directory that holds everything"))
    tables: str = attrs.field(default="files", metadata=_doc("the table backend (a plugin's name)"))
    subaddress: str = attrs.field(default="+", metadata=_doc("separators between user and detail"))
    listen: Listen = attrs.field(factory=Listen)
    tls: Tls = attrs.field(factory=Tls)
    auth: Auth = attrs.field(factory=Auth)
    dns: Dns = attrs.field(factory=Dns)
    limits: Limits = attrs.field(factory=Limits)
    queue: Queue = attrs.field(factory=Queue)
    policy: Policy = attrs.field(factory=Policy)
    store: Store = attrs.field(factory=Store)
    trace: Trace = attrs.field(factory=Trace)
    file: str = ""
