"""The embedded default: what a server without any configuration does, as settings and as a file to edit.

:func:`default_settings` and :func:`default_toml` say the same thing; a test keeps them equal. The first start
writes the text into the state directory, and from then on it is the operator's.
"""

from __future__ import annotations

import socket
from typing import Final

from lorrainemail.config.model import Listen, Settings

#: The domain and account of a server that nobody configured yet (RFC 2606 §2).
DOMAIN: Final = "example.test"
ACCOUNT: Final = f"me@{DOMAIN}"
HOSTNAME: Final = f"mail.{DOMAIN}"
#: Unprivileged ports of the doors, in the order in which they are bound.
PORTS: Final = {
    "smtp": 2525,
    "submission": 2587,
    "submissions": 2465,
    "pop3": 2110,
    "pop3s": 2995,
    "imap": 2143,
    "imaps": 2993,
}


def asks_dns_about_senders(settings: Settings) -> bool:
    """Whether policy looks senders up: not while the server has the embedded default's name, because then it
    may stand on a machine without any DNS."""
    return settings.hostname != HOSTNAME


def has_ipv6_loopback() -> bool:
    """Whether ``::1`` can be bound on this machine."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _endpoints(port: int, ipv6: bool) -> tuple[str, ...]:
    first = f"tcp:{port}:interface=127.0.0.1"
    return (first, rf"tcp:{port}:interface=\:\:1") if ipv6 else (first,)


def default_settings(state: str, ipv6: bool | None = None) -> Settings:
    """The embedded default.

    :param state: the state directory, absolute.
    :param ipv6: whether to listen on ``::1`` too; None looks.
    """
    both = has_ipv6_loopback() if ipv6 is None else ipv6
    return Settings(
        hostname=HOSTNAME,
        local_domains=(DOMAIN,),
        state=state,
        listen=Listen(**{door: _endpoints(port, both) for door, port in PORTS.items()}),
    )


def default_toml(ipv6: bool | None = None) -> str:
    """The embedded default as a commented ``lorrainemail.toml``, the three lists first."""
    both = has_ipv6_loopback() if ipv6 is None else ipv6
    doors = "\n".join(
        f"{door} = [{', '.join(_quoted(e) for e in _endpoints(port, both))}]" for door, port in PORTS.items()
    )
    return _TEMPLATE.format(hostname=HOSTNAME, domain=DOMAIN, doors=doors)


def _quoted(text: str) -> str:
    """A TOML literal string: a backslash stays a backslash."""
    return f"'{text}'"


_TEMPLATE: Final = """\
# lorrainemail.toml: change it, then "lorrainemail check", then restart or send SIGHUP.
# Every setting is in docs/configuration.rst.

# The name of this server, as other servers see it.
hostname = "{hostname}"

# 1. Domains whose mail is delivered here. The file "domains" in the state directory may name more.
local_domains = ["{domain}"]

# 2. Networks that may send anywhere without a login. Nobody: [] is safe.
relay_networks = []                       # ["192.168.1.0/24", "2001:db8::/48"]

# This file's own directory holds mail, queue, accounts and keys.
state = "."

# 3. Where mail goes that is not for here: the most specific row wins; without a row the DNS (MX) says.
[relay]
# "*" = {{ host = "smtp.provider.example:587", tls = "verified", credentials = "provider" }}
# "*.free.fr" = "smtp.free.fr"
# "*@partner.example" = ["a.partner.example:25", "[192.0.2.7]:25"]

# Doors, as Twisted endpoint strings; a door left out is closed. For a real server use the ports
# 25, 587, 465, 110, 995, 143 and 993 with interface=\\:\\: (IPv6 and IPv4), as in etc/lorrainemail.toml.
[listen]
{doors}

# [tls]
# certificate = "tls/fullchain.pem"       # default: a certificate of our own small authority
# key = "tls/key.pem"

# [limits]
# message_size = "50 MB"
"""
