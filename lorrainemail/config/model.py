"""The configuration as a frozen tree of values: what each setting is, its default, its words.

Owned here: names, types, defaults and one sentence of documentation a setting (the reference in docs/ is made
from it). :mod:`lorrainemail.config.load` fills it from TOML; :mod:`lorrainemail.service` hands the parts to
their packages as plain values. No package below ``service`` takes the whole tree.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs

from lorrainemail.errors import Origin

MB = 10**6
HOUR = 3600
DAY = 86400

#: The doors of ``[listen]``, in the order in which they are bound.
DOORS = (
    "smtp",
    "submission",
    "submissions",
    "lmtp",
    "pop3",
    "pop3s",
    "imap",
    "imaps",
    "managesieve",
    "dns",
    "http",
    "https",
    "metrics",
)


def _doc(text: str, **more: Any) -> dict[str, Any]:
    """Field metadata: the setting's sentence in the reference.

    ``unit`` is "size" or "duration"; ``least`` and ``most`` bound a number; ``kind`` names the parser in
    :mod:`lorrainemail.config.load` that every string of the setting goes through.
    """
    return {"doc": text, **more}


#: A setting's place in the file: table, key, and the index of a list's element.
KeyPath = tuple[str | int, ...]


@attrs.frozen(slots=True)
class RelayRow:
    """One row of ``[relay]`` or ``[relay_by_sender]``: a host string, "mx", a list, or this table."""

    host: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("next hops, name or [literal] with an optional :port", kind="hop")
    )
    tls: str = attrs.field(
        default="opportunistic",
        metadata=_doc('"none", "opportunistic", "verified", or "sha256:<fingerprint>"', kind="tls"),
    )
    credentials: str = attrs.field(
        default="", metadata=_doc("name of a row in the credentials file", kind="word")
    )
    share: bool = attrs.field(default=False, metadata=_doc("try the hosts in random order, not as listed"))
    reject: str = attrs.field(
        default="", metadata=_doc("refuse such recipients with these words", kind="text")
    )
    mx: bool = attrs.field(default=False, metadata=_doc("ask the DNS for the MX, as if no row matched"))
    source: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "our own addresses to connect from, one IPv4, one IPv6; default: queue.source", kind="ip"
        ),
    )
    rewrite: bool = attrs.field(
        default=False,
        metadata=_doc("mail of our own users leaves with its addresses written as the rows of [rewrite] say"),
    )
    concurrency: int = attrs.field(
        default=0, metadata=_doc("deliveries at once; 0: queue.per_destination", least=0, most=10_000)
    )
    rate: int = attrs.field(
        default=0, metadata=_doc("deliveries a minute at most; 0: no limit", least=0, most=1_000_000)
    )
    xforward: bool = attrs.field(
        default=False,
        metadata=_doc("tell the next hop by XFORWARD whom each message came from, where it offers that"),
    )
    line: int = attrs.field(default=0, eq=False)


@attrs.frozen(slots=True)
class DeliverRow:
    """One row of ``[deliver]``: ``"courier:argument"``, or this table."""

    courier: str = attrs.field(
        default="",
        metadata=_doc('"lmtp", "pipe", "file", or the name of a plugin\'s courier', kind="word"),
    )
    argument: str = attrs.field(
        default="",
        metadata=_doc(
            "for lmtp unix:/path or host:port; for pipe a command line; for file a path below "
            "aliases.file_directories",
            kind="text",
        ),
    )
    accounts: bool = attrs.field(
        default=True,
        metadata=_doc(
            "take mail for our own accounts alone; false: for everybody there, and the courier's other side "
            "knows who exists"
        ),
    )
    tls: str = attrs.field(
        default="opportunistic",
        metadata=_doc('for lmtp by TCP: "none", "opportunistic", "verified", "sha256:..."', kind="tls"),
    )
    line: int = attrs.field(default=0, eq=False)


@attrs.frozen(slots=True)
class Aliases:
    """Where addresses lead, beside ``aliases`` in the state directory."""

    local: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc("files as aliases(5) describes them, such as /etc/aliases", kind="path"),
    )
    virtual: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("virtual(5) files of Postfix, virtusertable of Sendmail", kind="path")
    )
    file_directories: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc("where a target /file may be; /dev/null may always", kind="path"),
    )
    user_files: tuple[Literal["forward", "qmail"], ...] = attrs.field(
        default=(),
        metadata=_doc(
            'files by which accounts that are system users direct their mail: "forward" (~/.forward), '
            '"qmail" (~/.qmail and ~/.qmail-EXTENSION)'
        ),
    )


@attrs.frozen(slots=True)
class Commands:
    """What commands that aliases and rows of ``[deliver]`` lead to may use."""

    time: int = attrs.field(
        default=300,
        metadata=_doc("how long one may run", unit="duration", least=1, most=HOUR),
    )
    memory: int = attrs.field(
        default=512 * MB,
        metadata=_doc("address space of each of its processes", unit="size", least=16 * MB, most=2**40),
    )
    at_once: int = attrs.field(
        default=5, metadata=_doc("that run at the same moment, each command", least=1, most=100)
    )
    helper: str = attrs.field(
        default="",
        metadata=_doc(
            "the socket of lorrainemail-helper, which runs configured commands as the user whose mail it is",
            kind="path",
        ),
    )


@attrs.frozen(slots=True)
class Listen:
    """Lists of Twisted endpoint strings; a door left out is closed."""

    smtp: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("mail from other servers (MX)", kind="endpoint")
    )
    submission: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("mail from our users, STARTTLS", kind="endpoint")
    )
    submissions: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("mail from our users, TLS at once", kind="endpoint")
    )
    lmtp: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "mail for our mailboxes from a server in front, as in 'unix:/run/lorrainemail/lmtp:mode=660'",
            kind="endpoint",
        ),
    )
    pop3: tuple[str, ...] = attrs.field(default=(), metadata=_doc("POP3 with STLS", kind="endpoint"))
    pop3s: tuple[str, ...] = attrs.field(default=(), metadata=_doc("POP3, TLS at once", kind="endpoint"))
    imap: tuple[str, ...] = attrs.field(default=(), metadata=_doc("IMAP4 with STARTTLS", kind="endpoint"))
    imaps: tuple[str, ...] = attrs.field(default=(), metadata=_doc("IMAP4, TLS at once", kind="endpoint"))
    managesieve: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "ManageSieve with STARTTLS, port 4190: mail programs look after their user's filter scripts",
            kind="endpoint",
        ),
    )
    dns: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("the authoritative DNS door", kind="endpoint")
    )
    http: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "HTTP on port 80: questions of certificate authorities; all else is sent to https. On loopback, "
            "for a web server in front, it answers like https",
            kind="endpoint",
        ),
    )
    https: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc("HTTPS on port 443: how mail programs find us, the MTA-STS policy", kind="endpoint"),
    )
    metrics: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "numbers for a monitoring system (Prometheus), at /metrics; bound to loopback, as in "
            "'tcp:9187:interface=127.0.0.1'",
            kind="endpoint",
        ),
    )
    local: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "UNIX sockets at which programs of this machine hand mail over (sendmail), beside submit.sock in "
            "the state directory, which only the server's own user reaches",
            kind="endpoint",
        ),
    )


@attrs.frozen(slots=True)
class Tls:
    certificate: str = attrs.field(
        default="", metadata=_doc("PEM chain; default: the self-signed one", kind="path")
    )
    key: str = attrs.field(default="", metadata=_doc("PEM private key of the certificate", kind="path"))
    folders: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "folders that another program keeps certificates in, each for the names in it: certbot's "
            "live/NAME, acme.sh's NAME_ecc, Caddy's NAME; or a folder of such folders",
            kind="path",
        ),
    )
    old_peers: bool = attrs.field(
        default=False, metadata=_doc("accept TLS 1.0 and 1.1 on the smtp door, for very old servers")
    )
    trust: str = attrs.field(
        default="",
        metadata=_doc("PEM of authorities trusted for next hops; default: the system's", kind="path"),
    )


@attrs.frozen(slots=True)
class Acme:
    directory: str = attrs.field(
        default="",
        metadata=_doc(
            'where certificates are fetched by ACME: "letsencrypt", "letsencrypt-staging" or the https '
            "address of another directory; naming one agrees to its terms. Default: nowhere",
            kind="acme",
        ),
    )
    contact: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("addresses that the authority may write to", kind="address")
    )
    names: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("further names for the certificate of hostname", kind="hostname")
    )
    domains: bool = attrs.field(
        default=True,
        metadata=_doc(
            "where the https door is open, a certificate for each local domain's mta-sts, autoconfig and "
            "autodiscover, as far as these names lead to the addresses of hostname"
        ),
    )
    challenges: tuple[Literal["http-01", "tls-alpn-01", "dns-01"], ...] = attrs.field(
        default=("http-01", "tls-alpn-01", "dns-01"),
        metadata=_doc(
            "how names are proved, the preferred way first; those whose door is closed are left out"
        ),
    )
    keys: tuple[Literal["ecdsa", "rsa"], ...] = attrs.field(
        default=("ecdsa", "rsa"), metadata=_doc("kinds of keys: a certificate of each, side by side")
    )
    credentials: str = attrs.field(
        default="",
        metadata=_doc(
            "name of a row in the credentials file, for authorities that want a known customer (EAB): user "
            "is the key's id, secret the key",
            kind="word",
        ),
    )
    trust: str = attrs.field(
        default="",
        metadata=_doc(
            "PEM of the authorities that vouch for a private directory; default: the system's", kind="path"
        ),
    )


@attrs.frozen(slots=True)
class MtaSts:
    mode: Literal["by domain", "testing", "enforce", "none"] = attrs.field(
        default="by domain",
        metadata=_doc(
            'what our policies say; by domain: what "lorrainemail mta-sts set" said of each, testing at first'
        ),
    )
    mx: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc("further hosts that take mail for our domains, as a backup MX", kind="hostname"),
    )
    max_age: int = attrs.field(
        default=7 * DAY,
        metadata=_doc("how long others keep a policy", unit="duration", least=DAY, most=365 * DAY),
    )


@attrs.frozen(slots=True)
class Auth:
    plaintext: Literal["never", "loopback"] = attrs.field(
        default="never", metadata=_doc("logins without TLS: never, or only on listeners bound to loopback")
    )
    on_smtp: bool = attrs.field(default=False, metadata=_doc("offer AUTH on the smtp door too"))
    scram: bool = attrs.field(
        default=False,
        metadata=_doc(
            "store SCRAM-SHA-256 verifiers beside the hashes of passwords, made at the next login of each, "
            "and offer SCRAM once every account has them"
        ),
    )
    client_ca: str = attrs.field(
        default="",
        metadata=_doc(
            "PEM of authorities whose certificates let their owners log in (EXTERNAL), as the account of the "
            "e-mail address in them; with their CRLs, if any",
            kind="path",
        ),
    )


@attrs.frozen(slots=True)
class OAuth:
    """Logins by tokens of one OAuth 2.0 provider; off where neither ``keys`` nor ``introspection`` is set."""

    issuer: str = attrs.field(
        default="", metadata=_doc("the provider's name, exactly as its tokens have it (iss)", kind="text")
    )
    audience: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("whom tokens must be for (aud): one of these", kind="text")
    )
    keys: str = attrs.field(
        default="", metadata=_doc("where the provider's key set (JWKS) is, for signed tokens", kind="url")
    )
    introspection: str = attrs.field(
        default="", metadata=_doc("where the provider says whose a token is, in place of keys", kind="url")
    )
    credentials: str = attrs.field(
        default="",
        metadata=_doc("name of a row in the credentials file: who we are for the introspection", kind="word"),
    )
    scopes: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("what a token must allow, all of it", kind="word")
    )
    claim: str = attrs.field(
        default="email", metadata=_doc("where a token has the name of the account", kind="word")
    )
    discovery: str = attrs.field(
        default="",
        metadata=_doc(
            "the provider's openid-configuration, told to clients whose token is refused", kind="url"
        ),
    )
    trust: str = attrs.field(
        default="",
        metadata=_doc("PEM of authorities trusted for the provider; default: the system's", kind="path"),
    )


@attrs.frozen(slots=True)
class Dns:
    resolvers: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("address:port of resolvers; default: the system's", kind="resolver")
    )
    trusted: bool = attrs.field(default=False, metadata=_doc("believe the resolvers' DNSSEC verdict (AD)"))
    ipv6: bool = attrs.field(default=True, metadata=_doc("use IPv6 to reach other servers"))
    zones: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("zone files that the dns door serves", kind="path")
    )
    addresses: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "addresses under which the world finds this server; default: this machine's public ones",
            kind="ip",
        ),
    )
    serve: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "zones delegated to this server, which the dns door makes from the configuration and signs",
            kind="domain",
        ),
    )
    name_servers: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("names of the servers of these zones; default: hostname", kind="hostname")
    )
    port: int = attrs.field(
        default=53,
        metadata=_doc(
            "port of the authoritative servers that doctor asks (tests and labs change it)",
            least=1,
            most=65535,
        ),
    )


@attrs.frozen(slots=True)
class DnsUpdate:
    """A name server that takes changes by RFC 2136, signed with a TSIG key."""

    server: str = attrs.field(
        default="", metadata=_doc("address:port of the primary that takes the changes", kind="resolver")
    )
    key: str = attrs.field(
        default="", metadata=_doc("file of the TSIG key, as tsig-keygen or keymgr -t write it", kind="path")
    )
    zones: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("zones that it may be told to change; default: those it has", kind="domain")
    )


@attrs.frozen(slots=True)
class Doctor:
    daily: bool = attrs.field(
        default=True, metadata=_doc("look at everything once a day, and tell the postmaster what turned bad")
    )
    lang: Literal["en", "fr"] = attrs.field(default="en", metadata=_doc("language of these messages"))
    blocklists: tuple[str, ...] = attrs.field(
        default=("zen.spamhaus.org", "bl.spamcop.net", "psbl.surriel.com"),
        metadata=_doc("DNS blocklists in which the own addresses should not stand", kind="domain"),
    )
    probes: tuple[str, ...] = attrs.field(
        default=("gmail.com", "outlook.com", "free.fr"),
        metadata=_doc("domains whose mail servers show whether port 25 is open to the world", kind="domain"),
    )
    time: str = attrs.field(
        default="pool.ntp.org:123",
        metadata=_doc('time server that the clock is compared with, "" for none', kind="time"),
    )


@attrs.frozen(slots=True)
class Limits:
    message_size: int = attrs.field(
        default=50 * MB, metadata=_doc("largest message", unit="size", least=1000, most=2**40)
    )
    recipients: int = attrs.field(
        default=1000, metadata=_doc("RCPTs in one transaction", least=1, most=100_000)
    )
    connections: int = attrs.field(
        default=2000, metadata=_doc("connections at once, each door", least=1, most=1_000_000)
    )
    connections_per_peer: int = attrs.field(
        default=100,
        metadata=_doc(
            "connections at once from one IPv4 address or IPv6 /64, each door", least=1, most=1_000_000
        ),
    )
    disk_reserve: int = attrs.field(
        default=64 * MB,
        metadata=_doc("free disk below which no mail is taken", unit="size", least=0, most=2**60),
    )
    queue_messages: int = attrs.field(
        default=200_000, metadata=_doc("messages waiting at once", least=1, most=100_000_000)
    )
    recipients_per_hour: int = attrs.field(
        default=2000,
        metadata=_doc(
            "recipients that one account may send to in an hour; 0: no limit", least=0, most=1_000_000
        ),
    )
    recipients_per_day: int = attrs.field(
        default=10_000,
        metadata=_doc(
            "recipients that one account may send to in a day; 0: no limit", least=0, most=10_000_000
        ),
    )
    messages_per_domain: int = attrs.field(
        default=0,
        metadata=_doc(
            "messages that strangers may send in the name of one domain in an hour; 0: no limit",
            least=0,
            most=1_000_000,
        ),
    )
    hops: int = attrs.field(
        default=100, metadata=_doc("Received fields after which a message loops", least=5, most=1000)
    )


@attrs.frozen(slots=True)
class Queue:
    retry: tuple[int, ...] = attrs.field(
        default=(300, 600, 1200, 1800, 3600, 7200, 14400),
        metadata=_doc("waits between tries; the last one repeats", unit="duration", least=1, most=30 * DAY),
    )
    expire: int = attrs.field(
        default=5 * DAY,
        metadata=_doc("age at which a message is given up", unit="duration", least=1, most=365 * DAY),
    )
    delay_notice: int = attrs.field(
        default=4 * HOUR,
        metadata=_doc(
            'age at which our own users are told that a message is late; "0s": never',
            unit="duration",
            least=0,
            most=365 * DAY,
        ),
    )
    history: int = attrs.field(
        default=14 * DAY,
        metadata=_doc(
            'how long is kept what became of what was queued; "0s": not at all',
            unit="duration",
            least=0,
            most=3650 * DAY,
        ),
    )
    history_size: int = attrs.field(
        default=256 * MB,
        metadata=_doc("the history's size, at which the oldest goes", unit="size", least=MB, most=2**50),
    )
    concurrency: int = attrs.field(
        default=40, metadata=_doc("deliveries to other servers at once", least=1, most=10_000)
    )
    per_destination: int = attrs.field(
        default=5, metadata=_doc("deliveries to one destination at once", least=1, most=10_000)
    )
    source: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "our own addresses to connect from, one IPv4, one IPv6; default: as the system chooses", kind="ip"
        ),
    )
    port: int = attrs.field(
        default=25, metadata=_doc("port of MX hosts (tests and labs change it)", least=1, most=65535)
    )


@attrs.frozen(slots=True)
class OutgoingTls:
    """What other domains want of the TLS of mail that is sent to them, where no row of ``[relay]``
    decides."""

    mta_sts: bool = attrs.field(
        default=True, metadata=_doc("keep to the MTA-STS policies of other domains (RFC 8461)")
    )
    dane: bool = attrs.field(
        default=True,
        metadata=_doc("keep to the TLSA records of their servers (RFC 7672); needs [dns] trusted = true"),
    )


@attrs.frozen(slots=True)
class TlsReports:
    """Reports of how TLS with mail servers went (RFC 8460)."""

    send: bool = attrs.field(
        default=True,
        metadata=_doc("tell other domains once a day how TLS with their servers went, where they ask for it"),
    )
    mailbox: str = attrs.field(
        default="",
        metadata=_doc(
            "the account whose incoming reports are read for the command tls-report", kind="address"
        ),
    )
    keep: int = attrs.field(
        default=400 * DAY,
        metadata=_doc("how long what reports say is kept", unit="duration", least=DAY, most=3650 * DAY),
    )


@attrs.frozen(slots=True)
class Forwarding:
    """Mail of others that aliases and filters send on to other servers."""

    srs: bool = attrs.field(
        default=True,
        metadata=_doc(
            "send it under an address of ours that leads back to its sender (SRS), so that it passes the "
            "next server's SPF check"
        ),
    )
    srs_domain: str = attrs.field(
        default="",
        metadata=_doc(
            "the domain of such addresses; default: that of the alias, else the first local domain",
            kind="domain",
        ),
    )


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
        metadata=_doc("the checks, in order; built-in or plugins", kind="word"),
    )
    bare_line_ends: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc("networks whose bare CR and LF in messages are mended, not refused", kind="network"),
    )
    hide_submitter: bool = attrs.field(
        default=True, metadata=_doc("leave the address of a logged-in sender out of Received")
    )
    fail_closed: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "checks without which no mail is taken (451) where they fail or do not answer", kind="word"
        ),
    )
    block_lists: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            'DNS lists of bad peers for the check dns_lists, as "zen.spamhaus.org", or with the answers that '
            'count: "list.example=127.0.0.2-11"',
            kind="dns_list",
        ),
    )
    pass_lists: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc("DNS lists of good peers, which are spared by dns_lists and greylist", kind="dns_list"),
    )
    greylist_wait: int = attrs.field(
        default=240,
        metadata=_doc(
            "how long a stranger's first message is deferred by the check greylist",
            unit="duration",
            least=1,
            most=HOUR,
        ),
    )
    trusted_sealers: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "domains whose ARC seals are believed: what they saw pass is not held against the sender",
            kind="domain",
        ),
    )
    arc: bool = attrs.field(
        default=True,
        metadata=_doc("seal what aliases and scripts send on, where one of our domains has DKIM keys"),
    )


@attrs.frozen(slots=True)
class Store:
    format: Literal["maildir", "mbox"] = attrs.field(
        default="maildir", metadata=_doc("how mail of new accounts is kept")
    )
    mbox_domains: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("domains whose accounts are kept as mbox", kind="domain")
    )


@attrs.frozen(slots=True)
class Trace:
    keep: int = attrs.field(
        default=30 * DAY,
        metadata=_doc(
            "how long what happened to messages is remembered", unit="duration", least=HOUR, most=3650 * DAY
        ),
    )


@attrs.frozen(slots=True)
class FilterRow:
    """One row of ``[filters]``: a program that sees finished messages; the row's name is its check's."""

    kind: Literal["milter", "rspamd", "clamav", "spamd"] = attrs.field(
        default="milter", metadata=_doc("the protocol that it speaks")
    )
    address: str = attrs.field(
        default="",
        metadata=_doc('where it listens: "unix:/run/filter.sock" or "tcp:127.0.0.1:8891"', kind="client"),
    )
    timeout: int = attrs.field(
        default=30,
        metadata=_doc("how long its answer is waited for", unit="duration", least=1, most=300),
    )
    size: int = attrs.field(
        default=25 * MB,
        metadata=_doc("larger messages are not shown to it", unit="size", least=1000, most=2**40),
    )
    fail: Literal["open", "closed"] = attrs.field(
        default="open", metadata=_doc("whether mail passes or is deferred (451) where it fails")
    )
    mail: Literal["in", "out", "both"] = attrs.field(
        default="in", metadata=_doc("mail of strangers, mail of our own users, or both")
    )
    modify: bool = attrs.field(
        default=True, metadata=_doc("a milter may change headers and body; else it may only judge")
    )


@attrs.frozen(slots=True)
class Dmarc:
    send_reports: bool = attrs.field(
        default=False, metadata=_doc("send other domains the daily aggregate reports that they ask for")
    )
    failure_reports: bool = attrs.field(
        default=False, metadata=_doc("send a report of single failures where a domain asks, headers only")
    )
    mailbox: str = attrs.field(
        default="",
        metadata=_doc("the account whose incoming reports are read for the command dmarc", kind="address"),
    )
    keep: int = attrs.field(
        default=400 * DAY,
        metadata=_doc("how long what reports say is kept", unit="duration", least=DAY, most=3650 * DAY),
    )


@attrs.frozen(slots=True)
class Dkim:
    rotate: int = attrs.field(
        default=0,
        metadata=_doc(
            'age at which keys are replaced, as "180d"; 0s: never by itself',
            unit="duration",
            least=0,
            most=3650 * DAY,
        ),
    )


@attrs.frozen(slots=True)
class Settings:
    """The whole configuration. ``file`` is where it was read, "" for the embedded default."""

    hostname: str = attrs.field(
        default="", metadata=_doc("our name, as in the greeting and the MX record", kind="hostname")
    )
    local_domains: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("domains whose mail is delivered here", kind="domain")
    )
    relay_networks: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("addresses that may send anywhere without login", kind="network")
    )
    relay_domains: tuple[str, ...] = attrs.field(
        default=(), metadata=_doc("domains for which we are a backup MX", kind="domain")
    )
    proxy_networks: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "proxies that may say who the client is (PROXY protocol), at endpoints that begin with haproxy:",
            kind="network",
        ),
    )
    xclient_networks: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "servers in front that may say by XCLIENT who the client is; it has the client's rights then",
            kind="network",
        ),
    )
    xforward_networks: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_doc(
            "servers in front that may say by XFORWARD whom a message came from, for the trace",
            kind="network",
        ),
    )
    relay: dict[str, RelayRow] = attrs.field(
        factory=dict, metadata=_doc("preferred next hops by recipient; the most specific pattern wins")
    )
    relay_by_sender: dict[str, RelayRow] = attrs.field(
        factory=dict, metadata=_doc("preferred next hops by sender, tried first")
    )
    deliver: dict[str, DeliverRow] = attrs.field(
        factory=dict,
        metadata=_doc(
            "how mail for local domains is delivered, where not into our mailboxes",
            table="table of rows of [deliver]",
        ),
    )
    unknown_users: dict[str, RelayRow] = attrs.field(
        factory=dict,
        metadata=_doc("next hops for the unknown users of local domains, by domain"),
    )
    mailbox_scripts: dict[str, str] = attrs.field(
        factory=dict,
        metadata=_doc(
            "scripts of the operator (in sieve/ of the state directory, without .sieve) that run over "
            'messages that users move: "into Junk" = "learn-spam"; also "out of FOLDER" and "flags FOLDER", '
            "where FOLDER is a name, a special use or *",
            kind="mailbox_scripts",
            table="table of names",
        ),
    )
    rewrite: dict[str, str] = attrs.field(
        factory=dict,
        metadata=_doc(
            'addresses or domains as the world knows them, by ours: "home.lan" = "bricoleur.com"; for relay '
            "rows with rewrite = true",
            kind="rewrite",
        ),
    )
    archive: dict[str, str] = attrs.field(
        factory=dict,
        metadata=_doc(
            "addresses that get a copy of mail, by pattern of its sender or recipient; before the pattern "
            'may stand "from:" or "to:"',
            kind="archive",
        ),
    )
    state: str = attrs.field(default="", metadata=_doc("the directory that holds everything", kind="state"))
    tables: str = attrs.field(
        default="files", metadata=_doc("the table backend (a plugin's name)", kind="word")
    )
    subaddress: str = attrs.field(
        default="+", metadata=_doc("separators between user and detail", kind="separators")
    )
    listen: Listen = attrs.field(factory=Listen)
    tls: Tls = attrs.field(factory=Tls)
    acme: Acme = attrs.field(factory=Acme)
    mta_sts: MtaSts = attrs.field(factory=MtaSts)
    auth: Auth = attrs.field(factory=Auth)
    oauth: OAuth = attrs.field(factory=OAuth)
    dns: Dns = attrs.field(factory=Dns)
    dns_update: DnsUpdate = attrs.field(factory=DnsUpdate)
    doctor: Doctor = attrs.field(factory=Doctor)
    limits: Limits = attrs.field(factory=Limits)
    queue: Queue = attrs.field(factory=Queue)
    outgoing_tls: OutgoingTls = attrs.field(factory=OutgoingTls)
    tls_reports: TlsReports = attrs.field(factory=TlsReports)
    forwarding: Forwarding = attrs.field(factory=Forwarding)
    policy: Policy = attrs.field(factory=Policy)
    store: Store = attrs.field(factory=Store)
    aliases: Aliases = attrs.field(factory=Aliases)
    commands: Commands = attrs.field(factory=Commands)
    trace: Trace = attrs.field(factory=Trace)
    dmarc: Dmarc = attrs.field(factory=Dmarc)
    dkim: Dkim = attrs.field(factory=Dkim)
    actions: dict[str, dict[str, str]] = attrs.field(
        factory=dict,
        metadata=_doc(
            "what is done with a check's verdict; see below", kind="actions", table="table of words by check"
        ),
    )
    filters: dict[str, FilterRow] = attrs.field(
        factory=dict,
        metadata=_doc(
            "milters, rspamd, ClamAV and spamd, in the order in which they are asked; see below",
            kind="filters",
            table="table of filter rows",
        ),
    )
    forwarders: dict[str, tuple[str, ...]] = attrs.field(
        factory=dict,
        metadata=_doc(
            "by account, the networks and host names of servers that forward to it: their mail is never "
            "refused for DMARC",
            kind="forwarders",
            table="table of lists",
        ),
    )
    file: str = ""
    lines: dict[KeyPath, int] = attrs.field(factory=dict, eq=False, repr=False)

    def origin(self, *path: str | int) -> Origin:
        """Where a setting was written; the nearest enclosing one where it has no line of its own."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return Origin(self.file, self.lines[path[:end]])
        return Origin(self.file)
