"""A real domain on an empty machine, on the embedded default, or beside the domains that are there.

:func:`establish` does the work of ``lorrainemail init`` and, for domains after the first one,
``lorrainemail domain add``: the configuration, the state directory, DKIM keys, the addresses postmaster and
abuse, the first account. Every step looks first and does only what is missing, so that it may be given again
at any time; it answers what it did. It blocks, and belongs to commands alone. Fails with ConfigurationError,
KeyFault and OSError; what was done until then stands, and the next call goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, Literal

import attrs

from lorrainemail.addresses import Address
from lorrainemail.config.default import ACCOUNT, HOSTNAME
from lorrainemail.config.load import FILE_NAME, SYSTEM_FILE, SYSTEM_STATE, Located, load, load_text, locate
from lorrainemail.config.model import Settings
from lorrainemail.errors import ConfigurationError
from lorrainemail.interfaces import Credential
from lorrainemail.mailauth import keys
from lorrainemail.setup.first_start import write_small
from lorrainemail.setup.places import PASSWORD_FILE
from lorrainemail.tables import edit
from lorrainemail.tables.accounts import parse_accounts
from lorrainemail.tables.files import parse_domains
from lorrainemail.tables.textfile import read_octets

#: The user of the systemd unit.
SERVICE_USER: Final = "lorrainemail"
#: Where a configuration that init replaced is kept.
REPLACED: Final = ".before-init"
#: The doors that a new server opens: the ports that the world expects (RFC 8314 §3: TLS at once), and those
#: above 1024 for a trial without root.
DOORS: Final = {
    "smtp": (25, 2525),
    "submission": (587, 2587),
    "submissions": (465, 2465),
    "pop3s": (995, 2995),
    "imaps": (993, 2993),
    "managesieve": (4190, 2419),
    "http": (80, 2080),
    "https": (443, 2443),
}
#: Those of them that serve web pages; mail works without.
WEB: Final = ("http", "https")
#: The name of the smarthost's login in the file of credentials.
SMARTHOST: Final = "smarthost"

Did = Literal["configuration", "replaced", "domain", "state", "dkim", "alias", "account", "credentials"]


@attrs.frozen(slots=True)
class Step:
    """One thing that was done, or was there (``new`` is False)."""

    what: Did
    where: str
    new: bool


@attrs.frozen(slots=True)
class Wishes:
    """What the operator wants.

    :ivar domain: in A-labels, lower case.
    :ivar interfaces: addresses to listen at; "" is all of them.
    :ivar addresses: under which the world finds the server, where the machine does not know itself.
    :ivar high_ports: doors above 1024. ``web``: open the doors http and https too.
    :ivar acme: the directory that certificates come from, "" for none.
    :ivar smarthost: host:port of the one that takes all outgoing mail, "" for none.
    :ivar login: its (user, secret).
    """

    domain: str
    hostname: str
    interfaces: tuple[str, ...] = ("",)
    addresses: tuple[str, ...] = ()
    high_ports: bool = False
    web: bool = True
    acme: str = ""
    resolvers: tuple[str, ...] = ()
    smarthost: str = ""
    login: tuple[str, str] | None = attrs.field(default=None, repr=False)
    lang: Literal["en", "fr"] = "en"


def place(config: str | None, state: str | None, directory: str | None = None) -> Located:
    """Where the new server's configuration and state are, or will be.

    As :func:`~lorrainemail.config.load.locate`, but ``--config`` may name a file that is not there yet, and
    root without options means the system's own places.
    """
    here = directory or os.getcwd()
    if config and not os.path.exists(os.path.join(here, config)):
        file = os.path.normpath(os.path.join(here, config))
        return Located(file, os.path.normpath(os.path.join(here, state)) if state else SYSTEM_STATE, True)
    located = locate(config, state, directory=directory)
    if not located.embedded:
        return located
    if state is None and config is None and os.geteuid() == 0:
        return Located(SYSTEM_FILE, SYSTEM_STATE, True)
    return Located(os.path.join(located.state, FILE_NAME), located.state, True)


def is_new(located: Located) -> bool:
    """Whether nothing of an operator's own is configured there."""
    return located.embedded or load(located).hostname == HOSTNAME


def establish(wishes: Wishes, located: Located, account: Address, credential: Credential) -> list[Step]:
    """Make the server of that domain out of what is there.

    :param account: the first account, and whom postmaster and abuse reach.
    """
    steps = [*_state(located)]
    if is_new(located):
        steps += _configure(wishes, located)
    settings = load(Located(located.file, located.state, False))
    steps += add_domain(settings, wishes.domain)
    if wishes.smarthost and wishes.login is not None:
        path = os.path.join(located.state, "credentials")
        steps.append(Step("credentials", path, edit.set_secret(located.state, SMARTHOST, *wishes.login)))
    steps.append(_account(located.state, account, credential))
    for name in ("postmaster", "abuse"):  # RFC 2142 §4, §5
        if str(account) != f"{name}@{wishes.domain}":
            steps.append(Step("alias", name, edit.add_alias(located.state, name, str(account))))
    return steps


def add_domain(settings: Settings, domain: str) -> Iterator[Step]:
    """A domain becomes local and gets keys."""
    known = domain in local_domains(settings)
    if not known:
        edit.add_domain(settings.state, domain)
    yield Step("domain", domain, not known)
    with edit.as_owner(settings.state):
        there = keys.stored_keys(settings.state, domain)
        if not there:
            there = keys.generate(settings.state, domain, datetime.now(UTC).strftime("%Y%m%d"), waits=False)
            yield from (Step("dkim", one.key.name, True) for one in there)
        else:
            yield from (Step("dkim", one.key.name, False) for one in there)


def local_domains(settings: Settings) -> list[str]:
    """Those of the configuration, then those of the file."""
    path = os.path.join(settings.state, "domains")
    try:
        text = read_octets(path).decode("utf-8", "replace")
    except FileNotFoundError:
        text = ""
    rows, problems, _ = parse_domains(text, path)
    if problems:
        raise ConfigurationError(tuple(problems))
    return list(dict.fromkeys([*settings.local_domains, *(row.name for row in rows)]))


# -- the steps -------------------------------------------------------------------------------------------


def _state(located: Located) -> Iterator[Step]:
    """The state directory, of the service's own user where root makes the system's."""
    if os.path.isdir(located.state):
        yield Step("state", located.state, False)
        return
    os.makedirs(located.state, mode=0o700)
    if located.state == SYSTEM_STATE and os.geteuid() == 0:
        with contextlib.suppress(KeyError):  # nobody made that user: root serves, and the start says so
            user = pwd.getpwnam(SERVICE_USER)
            os.chown(located.state, user.pw_uid, user.pw_gid)
    yield Step("state", located.state, True)


def _configure(wishes: Wishes, located: Located) -> Iterator[Step]:
    file = located.file or os.path.join(located.state, FILE_NAME)
    inside = os.path.dirname(file) == located.state
    text = configuration(wishes, "." if inside else located.state)
    load_text(text, file, located.state)  # what we write must load, else nothing is written
    os.makedirs(os.path.dirname(file), mode=0o755, exist_ok=True)
    with edit.as_owner(located.state) if inside else contextlib.nullcontext():
        if os.path.exists(file):
            os.replace(file, file + REPLACED)
            yield Step("replaced", file + REPLACED, True)
        write_small(file, text, 0o600 if inside else 0o644)
        yield Step("configuration", file, True)
        _forget_default(located.state)


def _forget_default(state: str) -> None:
    """The embedded default's account goes where nobody has given it a password of his own."""
    password = os.path.join(state, PASSWORD_FILE)
    if os.path.exists(password):
        os.unlink(password)
        user, _, domain = ACCOUNT.partition("@")
        with contextlib.suppress(ConfigurationError):
            edit.remove_account(state, Address(user, domain))


def _account(state: str, account: Address, credential: Credential) -> Step:
    path = os.path.join(state, "accounts")
    try:
        rows, _ = parse_accounts(read_octets(path).decode("utf-8", "replace"), path)
    except FileNotFoundError:
        rows = []
    there = any(row.account.address.key == account.key for row in rows)
    if not there:
        edit.add_account(state, account, [credential])
    return Step("account", str(account), not there)


def accounts(state: str) -> list[str]:
    """The addresses of all accounts."""
    path = os.path.join(state, "accounts")
    try:
        rows, _ = parse_accounts(read_octets(path).decode("utf-8", "replace"), path)
    except FileNotFoundError:
        return []
    return [str(row.account.address) for row in rows]


# -- the configuration file ------------------------------------------------------------------------------


def configuration(wishes: Wishes, state: str) -> str:
    """A commented ``lorrainemail.toml``, the three lists first."""
    return _TEMPLATE.format(
        hostname=wishes.hostname,
        domain=wishes.domain,
        state=state,
        relay=_relay(wishes),
        doors="\n".join(
            f"{door} = [{', '.join(_endpoint(port, face) for face in wishes.interfaces)}]"
            for door, port in ports_of(wishes).items()
        ),
        acme=_acme(wishes),
        dns=_dns(wishes),
        lang=wishes.lang,
    )


def ports_of(wishes: Wishes) -> dict[str, int]:
    """The doors that the configuration opens, and their ports."""
    return {door: ports[wishes.high_ports] for door, ports in DOORS.items() if wishes.web or door not in WEB}


def _endpoint(port: int, interface: str) -> str:
    where = interface.replace(":", r"\:")
    return f"'tcp:{port}:interface={where}'" if where else f"'tcp:{port}'"


def _relay(wishes: Wishes) -> str:
    if not wishes.smarthost:
        return '# "*" = { host = "smtp.provider.example:587", tls = "verified", credentials = "provider" }\n'
    extras = f', credentials = "{SMARTHOST}"' if wishes.login is not None else ""
    return f'"*" = {{ host = "{wishes.smarthost}", tls = "verified"{extras} }}\n'


def _acme(wishes: Wishes) -> str:
    """Certificates; without them the self-signed one serves."""
    if not wishes.acme:
        return '\n# [acme]\n# directory = "letsencrypt"             # names whose terms you agree to\n'
    return f'\n[acme]\ndirectory = "{wishes.acme}"\ncontact = ["postmaster@{wishes.domain}"]\n'


def _dns(wishes: Wishes) -> str:
    lines = []
    if wishes.addresses:
        lines.append(f"addresses = [{', '.join(_quoted(one) for one in wishes.addresses)}]")
    if wishes.resolvers:
        lines.append(f"resolvers = [{', '.join(_quoted(one) for one in wishes.resolvers)}]")
    text = "\n[dns]\n" + "\n".join(lines) + "\n" if lines else ""
    # Who listens at some of the machine's addresses only sends from these too: they have the PTR.
    chosen = {":" in face: face for face in reversed(wishes.interfaces) if face not in ("", "::", "0.0.0.0")}
    if not chosen:
        return text
    sources = ", ".join(_quoted(face) for face in sorted(chosen.values()))
    return f"{text}\n[queue]\nsource = [{sources}]\n"


def _quoted(text: str) -> str:
    return f'"{text}"'


_TEMPLATE: Final = """\
# lorrainemail.toml: change it, then "lorrainemail check", then "lorrainemail reload".
# Every setting is in docs/configuration.rst.

# The name of this server, as its MX and PTR records have it.
hostname = "{hostname}"

# 1. Domains whose mail is delivered here. "lorrainemail domain add" keeps further ones in the file "domains".
local_domains = ["{domain}"]

# 2. Networks that may send anywhere without a login. Nobody: [] is safe; users log in.
relay_networks = []                       # ["192.168.1.0/24", "2001:db8::/48"]

# Where mail, queue, accounts and keys are.
state = "{state}"

# 3. Where mail for elsewhere goes: the most specific row wins; without a row the DNS (MX) says.
[relay]
{relay}
# Doors; one left out is closed. interface=\\:\\: is IPv6 and IPv4.
[listen]
{doors}
{acme}{dns}
# "lorrainemail doctor" looks at everything once a day and tells postmaster what turned bad.
[doctor]
lang = "{lang}"
"""
