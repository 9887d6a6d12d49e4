"""The configuration as a frozen tree of values: what each setting is, its default, its words.

Here and in ``mail``, ``doors`` and ``checks`` beside it stand names, types, defaults and a sentence a setting
(the reference in docs/ is made from them). :mod:`lorrainemail.config.load` fills the tree from TOML;
:mod:`lorrainemail.service` hands the parts to their packages as plain values. No package below ``service``
takes the whole tree.
"""

from __future__ import annotations

import attrs

from lorrainemail.config.checks import Dkim as Dkim
from lorrainemail.config.checks import Dmarc as Dmarc
from lorrainemail.config.checks import FilterRow as FilterRow
from lorrainemail.config.checks import Policy as Policy
from lorrainemail.config.doc import KeyPath as KeyPath
from lorrainemail.config.doc import doc
from lorrainemail.config.doors import DOORS as DOORS
from lorrainemail.config.doors import Acme as Acme
from lorrainemail.config.doors import Auth as Auth
from lorrainemail.config.doors import Dns as Dns
from lorrainemail.config.doors import DnsUpdate as DnsUpdate
from lorrainemail.config.doors import Doctor as Doctor
from lorrainemail.config.doors import Listen as Listen
from lorrainemail.config.doors import MtaSts as MtaSts
from lorrainemail.config.doors import OAuth as OAuth
from lorrainemail.config.doors import Tls as Tls
from lorrainemail.config.mail import Aliases as Aliases
from lorrainemail.config.mail import Commands as Commands
from lorrainemail.config.mail import DeliverRow as DeliverRow
from lorrainemail.config.mail import Forwarding as Forwarding
from lorrainemail.config.mail import Limits as Limits
from lorrainemail.config.mail import OutgoingTls as OutgoingTls
from lorrainemail.config.mail import Queue as Queue
from lorrainemail.config.mail import RelayRow as RelayRow
from lorrainemail.config.mail import Store as Store
from lorrainemail.config.mail import TlsReports as TlsReports
from lorrainemail.config.mail import Trace as Trace
from lorrainemail.errors import Origin


@attrs.frozen(slots=True)
class Settings:
    """The whole configuration. ``file`` is where it was read, "" for the embedded default."""

    hostname: str = attrs.field(
        default="", metadata=doc("our name, as in the greeting and the MX record", kind="hostname")
    )
    local_domains: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("domains whose mail is delivered here", kind="domain")
    )
    relay_networks: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("addresses that may send anywhere without login", kind="network")
    )
    relay_domains: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("domains for which we are a backup MX", kind="domain")
    )
    proxy_networks: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "proxies that may say who the client is (PROXY protocol), at endpoints that begin with haproxy:",
            kind="network",
        ),
    )
    xclient_networks: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "servers in front that may say by XCLIENT who the client is; it has the client's rights then",
            kind="network",
        ),
    )
    xforward_networks: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "servers in front that may say by XFORWARD whom a message came from, for the trace",
            kind="network",
        ),
    )
    relay: dict[str, RelayRow] = attrs.field(
        factory=dict, metadata=doc("preferred next hops by recipient; the most specific pattern wins")
    )
    relay_by_sender: dict[str, RelayRow] = attrs.field(
        factory=dict, metadata=doc("preferred next hops by sender, tried first")
    )
    deliver: dict[str, DeliverRow] = attrs.field(
        factory=dict,
        metadata=doc(
            "how mail for local domains is delivered, where not into our mailboxes",
            table="table of rows of [deliver]",
        ),
    )
    unknown_users: dict[str, RelayRow] = attrs.field(
        factory=dict,
        metadata=doc("next hops for the unknown users of local domains, by domain"),
    )
    mailbox_scripts: dict[str, str] = attrs.field(
        factory=dict,
        metadata=doc(
            "scripts of the operator (in sieve/ of the state directory, without .sieve) that run over "
            'messages that users move: "into Junk" = "learn-spam"; also "out of FOLDER" and "flags FOLDER", '
            "where FOLDER is a name, a special use or *",
            kind="mailbox_scripts",
            table="table of names",
        ),
    )
    rewrite: dict[str, str] = attrs.field(
        factory=dict,
        metadata=doc(
            'addresses or domains as the world knows them, by ours: "home.lan" = "bricoleur.com"; for relay '
            "rows with rewrite = true",
            kind="rewrite",
        ),
    )
    archive: dict[str, str] = attrs.field(
        factory=dict,
        metadata=doc(
            "addresses that get a copy of mail, by pattern of its sender or recipient; before the pattern "
            'may stand "from:" or "to:"',
            kind="archive",
        ),
    )
    state: str = attrs.field(default="", metadata=doc("the directory that holds everything", kind="state"))
    tables: str = attrs.field(
        default="files", metadata=doc("the table backend (a plugin's name)", kind="word")
    )
    subaddress: str = attrs.field(
        default="+", metadata=doc("separators between user and detail", kind="separators")
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
        metadata=doc(
            "what is done with a check's verdict; see below", kind="actions", table="table of words by check"
        ),
    )
    filters: dict[str, FilterRow] = attrs.field(
        factory=dict,
        metadata=doc(
            "milters, rspamd, ClamAV and spamd, in the order in which they are asked; see below",
            kind="filters",
            table="table of filter rows",
        ),
    )
    forwarders: dict[str, tuple[str, ...]] = attrs.field(
        factory=dict,
        metadata=doc(
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
