"""What is allowed in a configuration but unwise: for ``check``, which names it with its line.

Pure but for looking at the modes of the files that are named. :class:`Finding` is shared with
:mod:`lorrainemail.tables.review`.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Iterator
from typing import Final, Literal

import attrs

from lorrainemail.config.model import DOORS, Settings
from lorrainemail.config.values import bound_to_loopback, endpoint_port, proxied, unix_path
from lorrainemail.errors import Origin, Problem

#: RFC 5321 §4.5.3.1.8 and §4.5.3.1.7.
LEAST_RECIPIENTS: Final = 100
LEAST_MESSAGE: Final = 64 * 1024
#: Broader networks than these are hardly one's own.
WIDEST: Final = {4: 8, 6: 19}
#: Whose words are believed about who a client is, and what that comes to.
_BELIEVED: Final = {
    "xclient_networks": "may say that it is anybody, also whom relay_networks lets send anywhere",
    "proxy_networks": "may say that it is anybody, also whom relay_networks lets send anywhere",
    "xforward_networks": "may say whom its messages came from, in trace and log",
}
#: Doors at which somebody logs in, in the clear first.
_LOGIN_DOORS: Final = ("submission", "pop3", "imap")
#: Files of the state directory that hold secrets; ``credentials`` is refused by the tables themselves.
_SECRET_FILES: Final = ("accounts", "first-account")

Kind = Literal["broken", "dangerous", "shadowed", "useless"]


@attrs.frozen(slots=True)
class Finding:
    """Something that works otherwise than it reads.

    :ivar kind: "broken" (cannot work), "dangerous", "shadowed" (another row comes first), "useless".
    """

    kind: Kind
    problem: Problem


def finding(kind: Kind, origin: Origin, what: str, mend: str) -> Finding:
    return Finding(kind, Problem(origin.file, origin.line, what, mend))


def review_settings(settings: Settings) -> Iterator[Finding]:
    """Everything unwise outside the tables."""
    yield from _doors(settings)
    yield from _believed(settings)
    yield from _names(settings)
    yield from _tls_files(settings)
    yield from _acme(settings)
    yield from _modes(settings)
    yield from _helper(settings)
    yield from _zones(settings)
    yield from _resolvers(settings)
    if settings.limits.recipients < LEAST_RECIPIENTS:
        what = f"fewer recipients in one message than the standard's {LEAST_RECIPIENTS}"
        yield finding(
            "dangerous", settings.origin("limits", "recipients"), what, "others will split or bounce"
        )
    if settings.limits.message_size < LEAST_MESSAGE:
        origin = settings.origin("limits", "message_size")
        yield finding("dangerous", origin, "messages of 64 KiB must be taken by the standard", "raise it")


def _zones(settings: Settings) -> Iterator[Finding]:
    """Zones that nobody can ask for, and updates that nobody would take."""
    if settings.dns.serve and not settings.listen.dns:
        origin = settings.origin("dns", "serve")
        mend = "open it: [listen] dns = ['tcp:53:interface=\\:\\:']"
        yield finding("broken", origin, "zones are served here, and the dns door is closed", mend)
    update = settings.dns_update
    if bool(update.server) != bool(update.key):
        have, lack = ("server", "key") if update.server else ("key", "server")
        origin = settings.origin("dns_update", have)
        yield finding("broken", origin, f"updates need server and key; there is no {lack}", f"add {lack}")


def _resolvers(settings: Settings) -> Iterator[Finding]:
    """Resolvers that are believed, whose answers others can change on the way."""
    if not settings.dns.trusted:
        return
    for index, resolver in enumerate(settings.dns.resolvers):
        bracketed = resolver.startswith("[")
        host = resolver[1:].partition("]")[0] if bracketed else resolver
        if not bracketed and host.count(":") == 1:
            host = host.partition(":")[0]
        if not ipaddress.ip_address(host).is_loopback:
            what = f"whoever is on the way to {resolver} can forge what DNSSEC proved, and with it DANE"
            mend = "ask a validating resolver on this machine, or leave trusted out"
            yield finding("dangerous", settings.origin("dns", "resolvers", index), what, mend)


def _doors(settings: Settings) -> Iterator[Finding]:
    open_doors = {door: getattr(settings.listen, door) for door in DOORS}
    where = settings.origin("listen")
    if not any(open_doors.values()):
        mend = "name doors in [listen], for example smtp = ['tcp:25:interface=\\:\\:']"
        yield finding("broken", where, "no door is open: the server would do nothing", mend)
    elif not open_doors["smtp"]:
        yield finding(
            "useless", where, "the smtp door is closed: no other server can send mail here", "or so meant"
        )
    for door, endpoints in open_doors.items():
        for index, endpoint in enumerate(endpoints):
            behind = proxied(endpoint)
            if behind is not None and not settings.proxy_networks and unix_path(behind) is None:
                what = f'"{endpoint}" takes connections of proxies alone, and none is named'
                mend = "name their addresses in proxy_networks"
                yield finding("broken", settings.origin("listen", door, index), what, mend)
    for index, endpoint in enumerate(open_doors["lmtp"]):
        port = endpoint_port(endpoint)
        origin = settings.origin("listen", "lmtp", index)
        if port is not None and port[1] == 25:
            yield finding("broken", origin, "LMTP must not be on port 25 (RFC 2033 §5)", "choose another")
        elif port is not None and not bound_to_loopback(endpoint):
            what = "whoever reaches this door delivers into our mailboxes unchecked"
            mend = "use a UNIX socket or interface=127.0.0.1, or let a firewall see to it"
            yield finding("dangerous", origin, what, mend)
    if settings.auth.plaintext == "loopback":
        for door in _LOGIN_DOORS:
            for index, endpoint in enumerate(open_doors[door]):
                if not bound_to_loopback(endpoint):
                    what = f'logins without TLS are not allowed on "{endpoint}", which others reach too'
                    mend = (
                        'plaintext = "loopback" holds only for listeners with interface=127.0.0.1 or \\:\\:1'
                    )
                    yield finding("useless", settings.origin("listen", door, index), what, mend)


def _believed(settings: Settings) -> Iterator[Finding]:
    """Servers in front that are everybody."""
    for name, means in _BELIEVED.items():
        for index, text in enumerate(getattr(settings, name)):
            network = ipaddress.ip_network(text)
            if network.prefixlen < WIDEST[network.version]:
                what = f"{name} {network}: whoever connects from there {means}"
                yield finding(
                    "dangerous", settings.origin(name, index), what, "name the servers in front only"
                )


def _helper(settings: Settings) -> Iterator[Finding]:
    """Commands of users are run by the helper alone; where it is not there, their mail waits."""
    path = settings.commands.helper
    if path and not os.path.exists(path):
        what = f"{path} is not there: no command of a user can be run"
        mend = "start lorrainemail-helper (etc/lorrainemail-helper.socket)"
        yield finding("broken", settings.origin("commands", "helper"), what, mend)


def _names(settings: Settings) -> Iterator[Finding]:
    origin = settings.origin("hostname")
    if settings.file and ("hostname",) not in settings.lines:
        what = f'hostname is not set; the machine calls itself "{settings.hostname}"'
        yield finding("dangerous", Origin(settings.file), what, 'write hostname = "mail.your-domain"')
    elif "." not in settings.hostname:
        what = f'hostname "{settings.hostname}" has no dot: other servers refuse such greetings'
        yield finding("dangerous", origin, what, 'write a full name, as "mail.bricoleur.com"')
    for index, domain in enumerate(settings.relay_domains):
        if domain in settings.local_domains:
            where = settings.origin("relay_domains", index)
            yield finding(
                "useless", where, f"{domain} is in local_domains too, which win", "keep one of them"
            )
    if not settings.local_domains and not os.path.exists(os.path.join(settings.state, "domains")):
        yield finding(
            "useless", origin, "there is no local domain: all mail from outside is refused", "name one"
        )


def _tls_files(settings: Settings) -> Iterator[Finding]:
    for name in ("certificate", "key", "trust"):
        path = getattr(settings.tls, name)
        if path and not os.access(path, os.R_OK):
            yield finding(
                "broken", settings.origin("tls", name), f"{path} cannot be read", "mend the path or its mode"
            )
    key = settings.dns_update.key
    if key and not os.access(key, os.R_OK):
        where = settings.origin("dns_update", "key")
        yield finding("broken", where, f"{key} cannot be read", "mend the path or its mode")
    for index, directory in enumerate(settings.aliases.file_directories):
        if directory.rstrip("/") in ("", settings.state) or not os.path.isdir(directory):
            where = settings.origin("aliases", "file_directories", index)
            what = f"{directory} is no directory of its own: no mail is filed there"
            yield finding("broken", where, what, "name one that exists, for such files alone")
    for index, path in enumerate(settings.dns.zones):
        if not os.access(path, os.R_OK):
            origin = settings.origin("dns", "zones", index)
            yield finding("broken", origin, f"{path} cannot be read", "mend the path or its mode")


def _acme(settings: Settings) -> Iterator[Finding]:
    acme, listen = settings.acme, settings.listen
    where = settings.origin("acme", "directory")
    if not acme.directory:
        if listen.https and not settings.tls.certificate and not settings.tls.folders:
            what = "mail programs will not believe the https door: its certificate is self-signed"
            mend = 'write directory = "letsencrypt" in [acme], or name a certificate in [tls]'
            yield finding("useless", settings.origin("listen", "https"), what, mend)
        return
    ways = {"http-01": bool(listen.http), "tls-alpn-01": bool(listen.https)}
    ways["dns-01"] = bool(settings.dns.serve or settings.dns_update.server)
    if not any(ways[way] for way in acme.challenges):
        mend = "open the http door on port 80 or the https door on port 443, or let us write to the DNS"
        yield finding("broken", where, "the authority has no way to see that our names are ours", mend)
    if not acme.keys:
        what = "no kind of key is wanted: no certificate will be fetched"
        yield finding("broken", settings.origin("acme", "keys"), what, 'write keys = ["ecdsa", "rsa"]')
    if acme.trust and not os.access(acme.trust, os.R_OK):
        what = f"{acme.trust} cannot be read"
        yield finding("broken", settings.origin("acme", "trust"), what, "mend the path or its mode")


def _modes(settings: Settings) -> Iterator[Finding]:
    secrets = [os.path.join(settings.state, name) for name in _SECRET_FILES]
    if settings.tls.key:
        secrets.append(settings.tls.key)
    for path in secrets:
        mode = _mode(path)
        if mode & 0o004:
            what = "holds secrets and can be read by everybody on this machine"
            yield finding("dangerous", Origin(path), what, f"chmod 600 {path}")
        elif mode & 0o022:
            yield finding("dangerous", Origin(path), "can be written by others", f"chmod 600 {path}")
    if _mode(settings.state) & 0o022:
        what = "the state directory can be written by others than its owner"
        yield finding("dangerous", Origin(settings.state), what, f"chmod 700 {settings.state}")


def _mode(path: str) -> int:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return 0
