"""The words of the configuration: sizes, durations, networks, hosts, patterns, endpoints.

Each parser takes the text as an operator writes it and answers in the one form that the rest of the house
compares, or raises :class:`Wrong` with what is wrong and how to mend it. Pure; endpoint strings are parsed by
Twisted without binding anything. Called by :mod:`lorrainemail.config.load` and by the table files.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final, cast
from urllib.parse import urlsplit

from lorrainemail.addresses import AddressError, normalise_domain, parse_address
from lorrainemail.ops.commandline import words_of

#: The longest word of any kind: longer ones are a mistake, not a value.
MAX_WORD: Final = 1024

#: ACME directories by the names that operators know.
DIRECTORIES: Final = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}

_SIZE = re.compile(r"(\d{1,15})\s*(B|KB|KiB|MB|MiB|GB|GiB|TB|TiB)\Z")
_SIZE_UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_DURATION = re.compile(r"(\d{1,9})\s*(s|m|h|d)\Z")
_DURATION_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,127}\Z")
_CLIENT = re.compile(r"unix:/.+\Z|tcp:(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}\Z", re.DOTALL)
_ANSWERS = re.compile(r"127\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?:-[0-9]{1,3})?\Z")
_SEPARATORS = re.compile(r"[+=#_~-]{0,4}\Z")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Wrong(ValueError):
    """A value that cannot be used.

    :ivar what: what is wrong; ``mend``: what to write instead.
    """

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend


def parse_size(text: str) -> int:
    """Octets: "50 MB" (10^6), "64 MiB" (2^20)."""
    match = _SIZE.match(text)
    if match is None:
        raise Wrong(f'"{text}" is no size', 'write for example "50 MB" (10^6) or "64 MiB" (2^20)')
    return int(match.group(1)) * _SIZE_UNITS[match.group(2)]


def parse_duration(text: str) -> int:
    """Seconds: "30s", "5m", "4h", "5d"."""
    match = _DURATION.match(text)
    if match is None:
        raise Wrong(f'"{text}" is no duration', 'write for example "30s", "5m", "4h" or "5d"')
    return int(match.group(1)) * _DURATION_UNITS[match.group(2)]


def parse_domain(text: str) -> str:
    """A mail domain in A-labels; not a pattern, not an address."""
    if "@" in text:
        raise Wrong(f'"{text}" is an address, not a domain', f'write only "{text.rpartition("@")[2]}"')
    if text.startswith("*."):
        raise Wrong(f'"{text}" is a pattern; this list takes whole domains', "name each domain")
    try:
        return normalise_domain(text)
    except AddressError as error:
        raise Wrong(f'"{text}": {error}', 'write a domain such as "bricoleur.com"') from None


def parse_directory(text: str) -> str:
    """The https address of an ACME directory, or the name of a known one."""
    if text in DIRECTORIES:
        return DIRECTORIES[text]
    parts = urlsplit(text)
    if text and (parts.scheme != "https" or not parts.hostname or parts.fragment or not text.isprintable()):
        raise Wrong(
            f'"{text}" is no ACME directory',
            'write "letsencrypt", "letsencrypt-staging" or an address that begins with https://',
        )
    return text


def parse_hostname(text: str) -> str:
    """Our own name: a domain name, never a literal."""
    name = parse_domain(text)
    if name.startswith("["):
        raise Wrong(f'"{text}" is an address literal', 'write a name such as "mail.bricoleur.com"')
    return name


def parse_network(text: str) -> str:
    """An address or network in canonical form; the IPv4-mapped form of IPv6 is undone."""
    address, _, length = text.partition("/")
    try:
        network: Network = ipaddress.ip_network(text)
    except ValueError:
        try:
            suggestion = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise Wrong(
                f'"{text}" is no network', 'write for example "192.168.1.0/24" or "2001:db8::/48"'
            ) from None
        raise Wrong(
            f'"{text}" is an address inside a network, with bits set beyond /{length}',
            f'write "{suggestion}" for the network or "{address}" for the one address',
        ) from None
    if network.version == 6 and network.network_address.ipv4_mapped is not None and network.prefixlen >= 96:
        inner = network.network_address.ipv4_mapped
        network = ipaddress.ip_network(f"{inner}/{network.prefixlen - 96}")
    return str(network)


def parse_ip(text: str) -> str:
    """An IP address in canonical form, without brackets."""
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        raise Wrong(f'"{text}" is no IP address', 'write for example "192.0.2.7" or "2001:db8::7"') from None
    if parsed.version == 6 and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)


def split_port(text: str, default: int) -> tuple[str, int]:
    """``host:port``, ``[literal]:port``, or either without a port; brackets are taken off.

    :returns: host (name, or IP address in canonical form) and port.
    """
    port_text = ""
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise Wrong(f'"{text}": the bracket is not closed', 'write for example "[2001:db8::7]:25"')
        host = parse_ip(inside.removeprefix("IPv6:").removeprefix("ipv6:"))
        port_text = rest[1:] if rest else ""
        if rest == ":":
            raise Wrong(f'"{text}": no port after the colon', 'write for example ":587", or no colon')
    elif text.count(":") > 1:
        host = parse_ip(text)
    else:
        name, colon, port_text = text.partition(":")
        if colon and not port_text:
            raise Wrong(f'"{text}": no port after the colon', 'write for example ":587", or no colon')
        host = parse_ip(name) if name[:1].isdigit() and _all_digits_and_dots(name) else parse_hostname(name)
    if not port_text:
        return host, default
    if not (port_text.isascii() and port_text.isdigit()) or not 1 <= int(port_text[:9]) <= 65535:
        raise Wrong(f'"{text}": "{port_text}" is no port', "a port is a number from 1 to 65535")
    return host, int(port_text)


def _all_digits_and_dots(text: str) -> bool:
    return all(c.isdigit() or c == "." for c in text)


def join_port(host: str, port: int) -> str:
    """The one form in which a host and its port are kept: brackets only around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_hop(text: str) -> str:
    """A next hop, with its port always written out."""
    return join_port(*split_port(text, 25))


def parse_lmtp(text: str) -> str:
    """Where a server listens for LMTP: ``unix:/path``, or host and port (24 where none is given)."""
    if text.startswith("unix:"):
        return f"unix:{parse_file(text[5:])}"
    if not text:
        raise Wrong("the row does not say where", 'write "lmtp:unix:/run/dovecot/lmtp" or "lmtp:host:24"')
    return join_port(*split_port(text, 24))


def parse_command(text: str) -> str:
    """A command line that needs no shell."""
    try:
        words_of(text)
    except ValueError as error:
        what, _, mend = str(error).partition("; ")
        raise Wrong(what, mend) from None
    return text


def parse_file(text: str) -> str:
    """A path from the root, without detours."""
    if not text.startswith("/") or not text.isprintable() or ".." in text.split("/"):
        raise Wrong(f'"{text}" is no path from the root', "write for example /var/spool/archive")
    return text


def parse_resolver(text: str) -> str:
    """A DNS resolver, an address and its port."""
    host, port = split_port(text, 53)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise Wrong(
            f'"{text}" is a name; a resolver is given by its IP address', 'write for example "127.0.0.1:53"'
        ) from None
    return join_port(host, port)


def parse_time_server(text: str) -> str:
    """A time server, name or address with its port; "" for none."""
    return join_port(*split_port(text, 123)) if text else ""


def parse_tls(text: str) -> str:
    """What TLS a next hop must have."""
    if text in ("none", "opportunistic", "verified"):
        return text
    if text.startswith("sha256:"):
        digest = text[7:].replace(":", "").lower()
        if _FINGERPRINT.match(digest):
            return f"sha256:{digest}"
        raise Wrong(
            f'"{text}": a SHA-256 fingerprint is 64 hexadecimal digits', "copy it whole from the certificate"
        )
    raise Wrong(
        f'"{text}" is no TLS requirement',
        'write "none", "opportunistic", "verified" or "sha256:<fingerprint of the certificate>"',
    )


def parse_name(text: str) -> str:
    """A word that names something: a backend, a check, a row of the credentials file."""
    if not _NAME.match(text):
        raise Wrong(f'"{text}" is no name', "use letters, digits and . _ - + @ only")
    return text


def parse_account(text: str) -> str:
    """The folded address of an account."""
    try:
        return parse_address(text).key if text else ""
    except AddressError as error:
        raise Wrong(f'"{text}": {error}', 'write an address such as "bob@bricoleur.com"') from None


def parse_client(text: str) -> str:
    """Where a filter listens: ``unix:/path`` or ``tcp:host:port``."""
    if not _CLIENT.match(text):
        raise Wrong(f'"{text}" is no place to connect to', 'write "unix:/run/x.sock" or "tcp:127.0.0.1:8891"')
    return text


def parse_dns_list(text: str) -> str:
    """A DNS list, alone or with the last octets of the answers that count: ``list.example=127.0.0.2-11``."""
    zone, equals, answers = text.partition("=")
    if equals and not _ANSWERS.match(answers):
        raise Wrong(f'"{text}": "{answers}" are no answers of a list', 'write for example "=127.0.0.2-11"')
    return parse_domain(zone) + equals + answers


def parse_forwarder(text: str) -> str:
    """A network, or the name of a server."""
    try:
        return parse_network(text)
    except Wrong:
        if not text or text[0].isdigit() or ":" in text:
            raise
    return parse_domain(text)


def parse_separators(text: str) -> str:
    """The characters that part a user from his detail."""
    if not _SEPARATORS.match(text):
        raise Wrong(f'"{text}" cannot separate a user from a detail', 'write "+", or "" to switch it off')
    return text


def parse_url(text: str) -> str:
    """Where a program is asked by HTTP: ``https://``, or ``http://`` to this machine alone."""
    parts = urlsplit(text) if text.isascii() and text.isprintable() and " " not in text else None
    try:
        host = parts.hostname if parts is not None else None
        if parts is not None:
            parts.port  # noqa: B018  # raises where it is none
    except ValueError:
        host = None
    if parts is None or not host or parts.scheme not in ("https", "http") or parts.fragment or parts.username:
        raise Wrong(f'"{text}" is no address of a web page', 'write it as "https://host/path"')
    if parts.scheme == "http" and host != "::1" and not host.startswith("127."):
        raise Wrong(f'"{text}" is asked without TLS', 'write "https://...": http is for 127.0.0.1 alone')
    return text


def parse_text(text: str) -> str:
    """One line of words that may stand in a reply."""
    if not text.isprintable():
        raise Wrong("the words contain a line break or another control character", "write one plain line")
    return text


def parse_pattern(text: str) -> str:
    """A relay row's pattern in the form in which rows are compared.

    ``*``; ``*.suffix`` (the suffix itself and all below it); a domain; a whole address. ``*@x`` is ``x``.
    """
    pattern = text.removeprefix("*@") if text != "*@" else text
    if pattern == "*":
        return "*"
    try:
        if pattern.startswith("*."):
            return "*." + normalise_domain(pattern[2:])
        if "@" in pattern:
            if pattern.rpartition("@")[2].startswith("*"):
                raise Wrong(
                    f'"{text}": a single user in every domain cannot be named',
                    "write a whole address or a domain pattern",
                )
            return parse_address(pattern).key
        if "*" in pattern:
            raise Wrong(f'"{text}": a star stands only alone or before a dot', 'write "*" or "*.free.fr"')
        if pattern.startswith("."):
            raise Wrong(f'"{text}" begins with a dot', f'write "*{pattern}" for all that ends so')
        return normalise_domain(pattern)
    except AddressError as error:
        raise Wrong(
            f'"{text}": {error}', 'a pattern is "*", "*.free.fr", "free.fr" or "bob@free.fr"'
        ) from None


def parse_sender_pattern(text: str) -> str:
    """As :func:`parse_pattern`, and ``<>`` for the null reverse-path."""
    return "<>" if text == "<>" else parse_pattern(text)


def endpoint_words(text: str) -> tuple[list[str], dict[str, str]]:
    """An endpoint string's words and its ``name=value`` pairs, as Twisted splits it (which commands that only
    look at the configuration need not load).

    :raises ValueError: where it ends in a lone backslash.
    """
    arguments: list[str] = []
    keywords: dict[str, str] = {}
    characters = iter(text)
    word, name = "", None
    for character in characters:
        if character == "\\":
            following = next(characters, None)
            if following is None:
                raise ValueError("a lone backslash")
            word += following
        elif character == ":":
            _add_word(arguments, keywords, name, word)
            word, name = "", None
        elif character == "=" and name is None:
            word, name = "", word
        else:
            word += character
    _add_word(arguments, keywords, name, word)
    return arguments, keywords


def _add_word(arguments: list[str], keywords: dict[str, str], name: str | None, word: str) -> None:
    if name is None:
        arguments.append(word)
    else:
        keywords[name] = word


def parse_endpoint(text: str) -> str:
    """A Twisted server endpoint string, checked without binding."""
    words: list[str] = []
    try:
        words, keywords = endpoint_words(text)
    except ValueError:
        raise Wrong(f'"{text}" is no endpoint', "write for example 'tcp:25:interface=\\:\\:'") from None
    kinds = [word.lower() for word in words[:2]]
    if kinds[0] in ("ssl", "tls", "txssl") or (kinds[0] == "haproxy" and kinds[1:2] == ["ssl"]):
        raise Wrong(
            f'"{text}": an endpoint that speaks TLS by itself is not used, because certificates are chosen '
            "by name and replaced while the server runs",
            "write tcp: instead; the doors submissions, pop3s, imaps and https speak TLS at once anyway",
        )
    if kinds[0] in ("tcp", "tcp4", "tcp6"):
        port = keywords.get("port", words[1] if len(words) > 1 else "")
        if not (port.isascii() and port.isdigit() and int(port[:9]) <= 65535):
            raise Wrong(f'"{text}": "{port}" is no port', "a port is a number from 0 to 65535")
        interface = keywords.get("interface", "")
        if interface:
            parse_ip(interface.partition("%")[0])
        if words[0] == "tcp" and len(words) == 2 and keywords.keys() <= {"interface"}:
            return text
    try:
        from twisted.internet import endpoints  # dear, and not needed for the usual ones

        cast(Any, endpoints).serverFromString(None, text)
    except (ValueError, TypeError) as error:
        raise Wrong(
            f'"{text}" is no endpoint: {error}', "write for example 'tcp:25:interface=\\:\\:'"
        ) from None
    except (IndexError, KeyError):
        if kinds[0] != "systemd":  # its sockets exist only in a process that systemd started
            raise Wrong(f'"{text}" is no endpoint', "write for example 'tcp:25:interface=\\:\\:'") from None
    except Exception as error:
        # A plugin's parser may fail in its own way; it is the operator's line all the same.
        raise Wrong(f'"{text}" is no endpoint: {error}', "see the manual of that endpoint") from None
    return text


def endpoint_port(text: str) -> tuple[str, int] | None:
    """(interface, port) of a TCP endpoint string, or None for any other kind."""
    words, keywords = endpoint_words(text)
    if words[0].lower() not in ("tcp", "tcp4", "tcp6"):
        return None
    return keywords.get("interface", ""), int(keywords.get("port", words[1] if len(words) > 1 else "0"))


def proxied(text: str) -> str | None:
    """What an endpoint string says behind ``haproxy:``, or None where it does not begin so."""
    word, _, rest = text.partition(":")
    return rest if word.lower() == "haproxy" else None


def unix_path(text: str) -> str | None:
    """The path of a UNIX endpoint string, or None for any other kind."""
    words, keywords = endpoint_words(text)
    if words[0].lower() != "unix":
        return None
    return keywords.get("address", words[1] if len(words) > 1 else "")


def bound_to_loopback(text: str) -> bool:
    """Whether a listener is reachable from this machine alone: what ``[auth] plaintext`` asks."""
    words, keywords = endpoint_words(text)
    if words[0].lower() not in ("tcp", "tcp4", "tcp6"):
        return False
    interface = keywords.get("interface", "")
    try:
        return ipaddress.ip_address(interface).is_loopback
    except ValueError:
        return False
