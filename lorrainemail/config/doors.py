"""Settings of what the world meets: listeners, certificates, logins, the DNS, the daily check-up."""

from __future__ import annotations

from typing import Literal

import attrs

from lorrainemail.config.doc import DAY, doc

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


@attrs.frozen(slots=True)
class Listen:
    """Lists of Twisted endpoint strings; a door left out is closed."""

    smtp: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("mail from other servers (MX)", kind="endpoint")
    )
    submission: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("mail from our users, STARTTLS", kind="endpoint")
    )
    submissions: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("mail from our users, TLS at once", kind="endpoint")
    )
    lmtp: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "mail for our mailboxes from a server in front, as in 'unix:/run/lorrainemail/lmtp:mode=660'",
            kind="endpoint",
        ),
    )
    pop3: tuple[str, ...] = attrs.field(default=(), metadata=doc("POP3 with STLS", kind="endpoint"))
    pop3s: tuple[str, ...] = attrs.field(default=(), metadata=doc("POP3, TLS at once", kind="endpoint"))
    imap: tuple[str, ...] = attrs.field(default=(), metadata=doc("IMAP4 with STARTTLS", kind="endpoint"))
    imaps: tuple[str, ...] = attrs.field(default=(), metadata=doc("IMAP4, TLS at once", kind="endpoint"))
    managesieve: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "ManageSieve with STARTTLS, port 4190: mail programs look after their user's filter scripts",
            kind="endpoint",
        ),
    )
    dns: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("the authoritative DNS door", kind="endpoint")
    )
    http: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "HTTP on port 80: questions of certificate authorities; all else is sent to https. On loopback, "
            "for a web server in front, it answers like https",
            kind="endpoint",
        ),
    )
    https: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc("HTTPS on port 443: how mail programs find us, the MTA-STS policy", kind="endpoint"),
    )
    metrics: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "numbers for a monitoring system (Prometheus), at /metrics; bound to loopback, as in "
            "'tcp:9187:interface=127.0.0.1'",
            kind="endpoint",
        ),
    )
    local: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "UNIX sockets at which programs of this machine hand mail over (sendmail), beside submit.sock in "
            "the state directory, which only the server's own user reaches",
            kind="endpoint",
        ),
    )


@attrs.frozen(slots=True)
class Tls:
    certificate: str = attrs.field(
        default="", metadata=doc("PEM chain; default: the self-signed one", kind="path")
    )
    key: str = attrs.field(default="", metadata=doc("PEM private key of the certificate", kind="path"))
    folders: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "folders that another program keeps certificates in, each for the names in it: certbot's "
            "live/NAME, acme.sh's NAME_ecc, Caddy's NAME; or a folder of such folders",
            kind="path",
        ),
    )
    old_peers: bool = attrs.field(
        default=False, metadata=doc("accept TLS 1.0 and 1.1 on the smtp door, for very old servers")
    )
    trust: str = attrs.field(
        default="",
        metadata=doc("PEM of authorities trusted for next hops; default: the system's", kind="path"),
    )


@attrs.frozen(slots=True)
class Acme:
    directory: str = attrs.field(
        default="",
        metadata=doc(
            'where certificates are fetched by ACME: "letsencrypt", "letsencrypt-staging" or the https '
            "address of another directory; naming one agrees to its terms. Default: nowhere",
            kind="acme",
        ),
    )
    contact: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("addresses that the authority may write to", kind="address")
    )
    names: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("further names for the certificate of hostname", kind="hostname")
    )
    domains: bool = attrs.field(
        default=True,
        metadata=doc(
            "where the https door is open, a certificate for each local domain's mta-sts, autoconfig and "
            "autodiscover, as far as these names lead to the addresses of hostname"
        ),
    )
    challenges: tuple[Literal["http-01", "tls-alpn-01", "dns-01"], ...] = attrs.field(
        default=("http-01", "tls-alpn-01", "dns-01"),
        metadata=doc(
            "how names are proved, the preferred way first; those whose door is closed are left out"
        ),
    )
    keys: tuple[Literal["ecdsa", "rsa"], ...] = attrs.field(
        default=("ecdsa", "rsa"), metadata=doc("kinds of keys: a certificate of each, side by side")
    )
    credentials: str = attrs.field(
        default="",
        metadata=doc(
            "name of a row in the credentials file, for authorities that want a known customer (EAB): user "
            "is the key's id, secret the key",
            kind="word",
        ),
    )
    trust: str = attrs.field(
        default="",
        metadata=doc(
            "PEM of the authorities that vouch for a private directory; default: the system's", kind="path"
        ),
    )


@attrs.frozen(slots=True)
class MtaSts:
    mode: Literal["by domain", "testing", "enforce", "none"] = attrs.field(
        default="by domain",
        metadata=doc(
            'what our policies say; by domain: what "lorrainemail mta-sts set" said of each, testing at first'
        ),
    )
    mx: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc("further hosts that take mail for our domains, as a backup MX", kind="hostname"),
    )
    max_age: int = attrs.field(
        default=7 * DAY,
        metadata=doc("how long others keep a policy", unit="duration", least=DAY, most=365 * DAY),
    )


@attrs.frozen(slots=True)
class Auth:
    plaintext: Literal["never", "loopback"] = attrs.field(
        default="never", metadata=doc("logins without TLS: never, or only on listeners bound to loopback")
    )
    on_smtp: bool = attrs.field(default=False, metadata=doc("offer AUTH on the smtp door too"))
    scram: bool = attrs.field(
        default=False,
        metadata=doc(
            "store SCRAM-SHA-256 verifiers beside the hashes of passwords, made at the next login of each, "
            "and offer SCRAM once every account has them"
        ),
    )
    client_ca: str = attrs.field(
        default="",
        metadata=doc(
            "PEM of authorities whose certificates let their owners log in (EXTERNAL), as the account of the "
            "e-mail address in them; with their CRLs, if any",
            kind="path",
        ),
    )


@attrs.frozen(slots=True)
class OAuth:
    """Logins by tokens of one OAuth 2.0 provider; off where neither ``keys`` nor ``introspection`` is set."""

    issuer: str = attrs.field(
        default="", metadata=doc("the provider's name, exactly as its tokens have it (iss)", kind="text")
    )
    audience: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("whom tokens must be for (aud): one of these", kind="text")
    )
    keys: str = attrs.field(
        default="", metadata=doc("where the provider's key set (JWKS) is, for signed tokens", kind="url")
    )
    introspection: str = attrs.field(
        default="", metadata=doc("where the provider says whose a token is, in place of keys", kind="url")
    )
    credentials: str = attrs.field(
        default="",
        metadata=doc("name of a row in the credentials file: who we are for the introspection", kind="word"),
    )
    scopes: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("what a token must allow, all of it", kind="word")
    )
    claim: str = attrs.field(
        default="email", metadata=doc("where a token has the name of the account", kind="word")
    )
    discovery: str = attrs.field(
        default="",
        metadata=doc(
            "the provider's openid-configuration, told to clients whose token is refused", kind="url"
        ),
    )
    trust: str = attrs.field(
        default="",
        metadata=doc("PEM of authorities trusted for the provider; default: the system's", kind="path"),
    )


@attrs.frozen(slots=True)
class Dns:
    resolvers: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("address:port of resolvers; default: the system's", kind="resolver")
    )
    trusted: bool = attrs.field(default=False, metadata=doc("believe the resolvers' DNSSEC verdict (AD)"))
    ipv6: bool = attrs.field(default=True, metadata=doc("use IPv6 to reach other servers"))
    zones: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("zone files that the dns door serves", kind="path")
    )
    addresses: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "addresses under which the world finds this server; default: this machine's public ones",
            kind="ip",
        ),
    )
    serve: tuple[str, ...] = attrs.field(
        default=(),
        metadata=doc(
            "zones delegated to this server, which the dns door makes from the configuration and signs",
            kind="domain",
        ),
    )
    name_servers: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("names of the servers of these zones; default: hostname", kind="hostname")
    )
    port: int = attrs.field(
        default=53,
        metadata=doc(
            "port of the authoritative servers that doctor asks (tests and labs change it)",
            least=1,
            most=65535,
        ),
    )


@attrs.frozen(slots=True)
class DnsUpdate:
    """A name server that takes changes by RFC 2136, signed with a TSIG key."""

    server: str = attrs.field(
        default="", metadata=doc("address:port of the primary that takes the changes", kind="resolver")
    )
    key: str = attrs.field(
        default="", metadata=doc("file of the TSIG key, as tsig-keygen or keymgr -t write it", kind="path")
    )
    zones: tuple[str, ...] = attrs.field(
        default=(), metadata=doc("zones that it may be told to change; default: those it has", kind="domain")
    )


@attrs.frozen(slots=True)
class Doctor:
    daily: bool = attrs.field(
        default=True, metadata=doc("look at everything once a day, and tell the postmaster what turned bad")
    )
    lang: Literal["en", "fr"] = attrs.field(default="en", metadata=doc("language of these messages"))
    blocklists: tuple[str, ...] = attrs.field(
        default=("zen.spamhaus.org", "bl.spamcop.net", "psbl.surriel.com"),
        metadata=doc("DNS blocklists in which the own addresses should not stand", kind="domain"),
    )
    probes: tuple[str, ...] = attrs.field(
        default=("gmail.com", "outlook.com", "free.fr"),
        metadata=doc("domains whose mail servers show whether port 25 is open to the world", kind="domain"),
    )
    time: str = attrs.field(
        default="pool.ntp.org:123",
        metadata=doc('time server that the clock is compared with, "" for none', kind="time"),
    )
