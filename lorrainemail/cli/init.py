"""``lorrainemail init DOMAIN``: the server of a real domain, on an empty machine or after a first trial.

Asks for little where there is a terminal, and takes everything by options; with ``--yes`` it asks nothing. It
may be given again at any time: what is there already is kept, and the DNS records are told again. The work is
:mod:`lorrainemail.setup.new_domain`'s. Exit status 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeVar

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.cli.account import MAX_INPUT, made_up_password
from lorrainemail.cli.domain import as_json, both, fail, parse_domain
from lorrainemail.config.default import has_ipv6_loopback
from lorrainemail.config.load import SYSTEM_STATE, Located, load
from lorrainemail.config.values import Wrong, join_port, parse_ip, parse_resolver, split_port

T = TypeVar("T")
Language = Literal["en", "fr"]

#: Seconds for each try at a mail server of the world.
PROBE: Final = 4.0

_WORDS: Final[dict[str, dict[Language, str]]] = {
    "ask_hostname": {"en": "Name of this server", "fr": "Nom de ce serveur"},
    "ask_account": {"en": "Your own address", "fr": "Votre adresse"},
    "ask_acme": {
        "en": "Get certificates from Let's Encrypt, and agree to its terms? (yes/no)",
        "fr": "Obtenir des certificats de Let's Encrypt, et accepter ses conditions ? (yes/no)",
    },
    "ask_smarthost": {
        "en": "Smarthost for outgoing mail, as smtp.provider.example:587 (empty: none)",
        "fr": "Relais pour le courrier sortant, comme smtp.fournisseur.example:587 (vide : aucun)",
    },
    "configuration": {"en": "configuration {where}", "fr": "configuration {where}"},
    "replaced": {
        "en": "the former configuration is kept as {where}",
        "fr": "ancienne configuration : {where}",
    },
    "state": {"en": "state directory {where}", "fr": "dossier d'état {where}"},
    "domain": {"en": "domain {where}", "fr": "domaine {where}"},
    "dkim": {"en": "DKIM key {where}", "fr": "clé DKIM {where}"},
    "alias": {"en": "address {where}", "fr": "adresse {where}"},
    "account": {"en": "account {where}", "fr": "compte {where}"},
    "credentials": {"en": "login at the smarthost, in {where}", "fr": "identifiants du relais, dans {where}"},
    "made": {"en": "made", "fr": "créé"},
    "there": {"en": "there already", "fr": "déjà là"},
    "password": {
        "en": "The password of {account} is {password} (change it: lorrainemail account passwd {account})",
        "fr": "Le mot de passe de {account} est {password} (à changer : lorrainemail account passwd "
        "{account})",
    },
    "blocked": {
        "en": "No mail server of the world is reached on port 25: your provider seems to block it. Mail "
        "comes in, "
        "but none goes out. Ask the provider to open port 25, or give init again with --smarthost "
        "HOST:587 in "
        "another state directory (or write it under [relay]).",
        "fr": "Aucun serveur de courrier au monde n'est joignable par le port 25 : l'hébergeur semble le "
        "bloquer. Le "
        "courrier entre, mais rien ne sort. Demandez-lui d'ouvrir le port 25, ou écrivez un relais sous "
        "[relay] "
        "(--smarthost HÔTE:587).",
    },
    "smarthost": {
        "en": "All mail to others goes through {smarthost}, which must accept your domain as sender. What "
        "that "
        "changes: port 25 outwards and your own PTR no longer matter for sending; that provider sees all "
        "your "
        "mail and sets limits to it; its name must stand in your SPF record; DKIM still signs here.",
        "fr": "Tout le courrier vers les autres passe par {smarthost}, qui doit accepter votre domaine "
        "comme "
        "expéditeur. Ce que cela change : le port 25 en sortie et votre PTR ne comptent plus pour l'envoi "
        "; ce "
        "fournisseur voit tout votre courrier et le limite ; son nom doit figurer dans votre SPF ; la "
        "signature "
        "DKIM se fait toujours ici.",
    },
    "taken": {
        "en": "Another program holds port {ports} of this machine; stop it before the start: ss -ltnp",
        "fr": "Un autre programme tient le port {ports} de cette machine ; arrêtez-le d'abord : ss -ltnp",
    },
    "web_taken": {
        "en": "Another program holds port {ports}, so the doors http and https stay closed: no "
        "autoconfiguration, "
        "no MTA-STS policy, and certificates only by other ways.",
        "fr": "Un autre programme tient le port {ports} ; les portes http et https restent closes : pas "
        "d'autoconfiguration, pas de politique MTA-STS, et des certificats par d'autres voies seulement.",
    },
    "records": {
        "en": "DNS records to set for {domain}:",
        "fr": "Enregistrements DNS à créer pour {domain} :",
    },
    "installed": {
        "en": "The systemd unit is installed and the server runs.",
        "fr": "L'unité systemd est installée et le serveur tourne.",
    },
    "unit_failed": {
        "en": "The systemd unit was not installed: {why}",
        "fr": "Unité systemd non installée : {why}",
    },
    "running": {
        "en": "The server that runs takes the new domain by itself.",
        "fr": "Le serveur qui tourne prend le nouveau domaine de lui-même.",
    },
    "next": {"en": "What is left to do:", "fr": "Ce qu'il reste à faire :"},
    "next_start": {"en": "start the server:  {command}", "fr": "démarrer le serveur :  {command}"},
    "next_dns": {
        "en": "set these DNS records, and ask the provider for the PTR; they take up to some hours to be "
        "seen",
        "fr": "créer ces enregistrements DNS et demander le PTR ; ils mettent jusqu'à quelques heures à "
        "être vus",
    },
    "next_doctor": {
        "en": "see whether all is well:  {command}",
        "fr": "voir si tout va bien :  {command}",
    },
}


def configure(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "init",
        help="the server of a real domain, on an empty machine or after a first trial",
        description="Writes the configuration, makes DKIM keys, the addresses postmaster and abuse and a "
        "first "
        "account, and prints every DNS record to set. May be given again: what is there is kept.",
    )
    parser.add_argument("domain", metavar="DOMAIN", type=parse_domain)
    parser.add_argument("--yes", action="store_true", help="ask nothing; agrees to the terms of --acme")
    parser.add_argument("--hostname", type=parse_domain, help="name of this server (default: mail.DOMAIN)")
    parser.add_argument(
        "--account", type=_address, metavar="ADDRESS", help="the first account (default: me@DOMAIN)"
    )
    parser.add_argument("--password-stdin", action="store_true", help="read its password from standard input")
    parser.add_argument("--address", type=_ip, action="append", help="public address (repeatable)")
    parser.add_argument("--interface", type=_ip, action="append", help="address to listen at (default: all)")
    parser.add_argument(
        "--high-ports", action="store_true", help="ports above 1024, for a trial without root"
    )
    parser.add_argument("--no-web", action="store_true", help="keep the doors http and https closed")
    parser.add_argument(
        "--acme",
        metavar="DIRECTORY",
        help='where certificates come from: "letsencrypt" (default), the address of another one, or "none"',
    )
    parser.add_argument("--resolver", type=_resolver, action="append", help="DNS resolver, address:port")
    parser.add_argument(
        "--smarthost", type=_hop, metavar="HOST:PORT", help="send all mail through this server"
    )
    parser.add_argument("--smarthost-user", metavar="USER", help="login there")
    parser.add_argument("--smarthost-password-file", metavar="FILE", help="file with its password")
    parser.add_argument(
        "--systemd",
        choices=("auto", "install", "print", "no"),
        default="auto",
        help="the unit (auto: installed by root where systemd runs)",
    )
    parser.add_argument(
        "--no-probe", action="store_true", help="do not try whether port 25 is open to the world"
    )
    parser.add_argument("--lang", choices=("en", "fr"), default="en", help="the language of all that is said")
    parser.add_argument("--json", action="store_true", help="one JSON object; asks nothing")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""
    from lorrainemail.sasl.credentials import hash_password
    from lorrainemail.setup.new_domain import establish, is_new, place
    from lorrainemail.setup.records import facts_of, records_of

    located = place(arguments.config, arguments.state)
    new = is_new(located)
    notes: list[str] = []
    wishes = _wishes(arguments, new, notes)
    account = _account(arguments)
    password = _password(arguments)
    unit = _unit(arguments, located)
    if unit == "install":
        notes += _make_user(arguments)
    steps = establish(wishes, located, account, hash_password(password.encode()))
    settings = load(Located(located.file, located.state, False))
    facts = facts_of(settings, arguments.domain)
    records = records_of(facts)
    made = any(step.what == "account" and step.new for step in steps)
    if unit == "install":
        notes.append(_install(arguments))
    if arguments.json:
        done = [{"what": step.what, "where": step.where, "new": step.new} for step in steps]
        answer = {"version": 1, "domain": facts.domain, "configuration": located.file, "steps": done}
        secret = {"password": password} if made and not arguments.password_stdin else {}
        print(json.dumps({**answer, **secret, "notes": notes, **as_json(records)}, ensure_ascii=False))
        return 0
    say = _Voice(arguments.lang)
    for step in steps:
        print(f"  {say('made' if step.new else 'there')}: {say(step.what, where=step.where)}")
    if made and not arguments.password_stdin:
        print("\n" + say("password", account=account, password=password))
    print("\n" + say("records", domain=facts.domain) + "\n")
    print("\n".join(both(facts, records, arguments.lang)))
    for one in notes:
        print("\n" + one)
    if unit == "print":
        _print_unit()
    print("\n" + "\n".join(_next(arguments, located, say, new and unit != "install")))
    return 0


class _Voice:
    def __init__(self, language: Language) -> None:
        self._language = language

    def __call__(self, key: str, **facts: object) -> str:
        return _WORDS[key][self._language].format(**facts)


# -- what is wanted --------------------------------------------------------------------------------------


def _wishes(arguments: argparse.Namespace, new: bool, notes: list[str]) -> Any:
    """From options and answers; of a server that is there already only the domain counts."""
    from lorrainemail.setup.new_domain import WEB, Wishes, ports_of

    say = _Voice(arguments.lang)
    hostname = arguments.hostname or f"mail.{arguments.domain}"
    acme = arguments.acme or ("none" if arguments.high_ports or arguments.no_web else "letsencrypt")
    if new and not arguments.hostname:
        hostname = _asked(arguments, say("ask_hostname"), hostname, parse_domain)
    if new and acme != "none" and not arguments.acme:
        acme = acme if _ask(arguments, say("ask_acme"), "yes").lower() in ("yes", "y", "oui", "o") else "none"
    wishes = Wishes(
        arguments.domain,
        hostname,
        tuple(arguments.interface or (("::",) if has_ipv6_loopback() else ("",))),
        tuple(arguments.address or ()),
        arguments.high_ports,
        not arguments.no_web,
        "" if acme == "none" else acme,
        tuple(arguments.resolver or ()),
        arguments.smarthost or "",
        _login(arguments),
        arguments.lang,
    )
    if not new:
        return wishes
    import attrs

    taken = _taken(wishes.interfaces, ports_of(wishes))
    if taken & {ports_of(wishes)[door] for door in WEB if wishes.web}:
        web = taken & {ports_of(wishes)[door] for door in WEB}
        notes.append(say("web_taken", ports=", ".join(map(str, sorted(web)))))
        wishes = attrs.evolve(wishes, web=False, acme="")
        taken -= web
    if taken:
        notes.append(say("taken", ports=", ".join(map(str, sorted(taken)))))
    if not wishes.smarthost and not arguments.no_probe and not _port_25():
        wishes = attrs.evolve(wishes, smarthost=_asked(arguments, say("ask_smarthost"), "", _hop))
        if not wishes.smarthost:
            notes.append(say("blocked"))
    if wishes.smarthost:
        notes.append(say("smarthost", smarthost=wishes.smarthost))
    return wishes


def _ask(arguments: argparse.Namespace, question: str, default: str) -> str:
    """A person's answer; the default where nobody is asked."""
    if arguments.yes or arguments.json or not sys.stdin.isatty():
        return default
    try:
        answer = input(f"{question} [{default}]: " if default else f"{question}: ").strip()
    except EOFError:
        return default
    return answer or default


def _asked(arguments: argparse.Namespace, question: str, default: str, parse: Callable[[str], T]) -> T | str:
    """As :func:`_ask`, until the answer can be used."""
    while True:
        answer = _ask(arguments, question, default)
        if not answer:
            return answer
        try:
            return parse(answer)
        except argparse.ArgumentTypeError as error:
            print(error)


def _account(arguments: argparse.Namespace) -> Address:
    account: Address | None = arguments.account
    if account is None:
        default = f"me@{arguments.domain}"
        answer = _asked(arguments, _Voice(arguments.lang)("ask_account"), default, _address)
        account = answer if isinstance(answer, Address) else _address(default)
    if account.domain != arguments.domain:
        arguments.usage_error(f"the account {account} is not in {arguments.domain}")
    return account


def _password(arguments: argparse.Namespace) -> str:
    if not arguments.password_stdin:
        return made_up_password()
    line = sys.stdin.buffer.readline(MAX_INPUT).decode("utf-8", "surrogateescape").rstrip("\r\n")
    if not line:
        arguments.usage_error("no password came on standard input")
    return line


def _login(arguments: argparse.Namespace) -> tuple[str, str] | None:
    if not arguments.smarthost_user:
        return None
    if not arguments.smarthost or not arguments.smarthost_password_file:
        arguments.usage_error("--smarthost-user needs --smarthost and --smarthost-password-file")
    try:
        with open(arguments.smarthost_password_file, encoding="utf-8") as file:
            return arguments.smarthost_user, file.read(MAX_INPUT).strip()
    except OSError as error:
        fail(arguments.smarthost_password_file, 0, error.strerror or str(error), "check the path")


def _taken(interfaces: Sequence[str], ports: dict[str, int]) -> set[int]:
    """Ports that some other program holds; one that we may not bind is not among them."""
    found = set()
    for interface in interfaces:
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        for port in ports.values():
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((interface, port))
                except PermissionError:
                    continue
                except OSError:
                    found.add(port)
    return found


def _port_25() -> bool:
    """Whether any mail server of the world answers; their names come from the system's own resolver."""
    from lorrainemail.setup.doctor.outside import smtp_greeting

    for host in ("gmail-smtp-in.l.google.com", "mx1.free.fr", "mx-eu.mail.am0.yahoodns.net"):
        try:
            address = str(socket.getaddrinfo(host, 25, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
            smtp_greeting(address, 25, PROBE)
        except OSError:
            continue
        return True
    return False


# -- systemd ---------------------------------------------------------------------------------------------


def _unit(arguments: argparse.Namespace, located: Located) -> str:
    """ "install", "print" or "no"."""
    from lorrainemail.setup.unit import has_systemd

    if arguments.systemd != "auto":
        return str(arguments.systemd)
    if located.state != SYSTEM_STATE:
        return "no"
    return "install" if os.geteuid() == 0 and has_systemd() else "print"


def _make_user(arguments: argparse.Namespace) -> list[str]:
    from lorrainemail.setup.unit import UnitFault, make_user

    try:
        make_user()
    except (UnitFault, OSError) as error:
        return [_Voice(arguments.lang)("unit_failed", why=error)]
    return []


def _install(arguments: argparse.Namespace) -> str:
    from lorrainemail.setup.unit import UnitFault, install

    say = _Voice(arguments.lang)
    try:
        install()
    except (UnitFault, OSError) as error:
        return say("unit_failed", why=error)
    return say("installed")


def _print_unit() -> None:
    from lorrainemail.setup.unit import UNIT, unit_text

    print(f"\n# /etc/systemd/system/{UNIT}\n{unit_text()}")


def _next(arguments: argparse.Namespace, located: Located, say: _Voice, start: bool) -> list[str]:
    beside = os.path.dirname(os.path.abspath(sys.executable))
    where = f" --state {shlex.quote(located.state)}" if located.state != SYSTEM_STATE else ""
    lines = [say("next")]
    if start:
        lines.append("  - " + say("next_start", command=f"{beside}/twistd -n lorrainemail{where}"))
    lines.append("  - " + say("next_dns"))
    lines.append("  - " + say("next_doctor", command=f"{beside}/lorrainemail doctor{where}"))
    return lines


# -- arguments -------------------------------------------------------------------------------------------


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(f'"{text}": {error}') from None


def _ip(text: str) -> str:
    try:
        return parse_ip(text)
    except Wrong as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _resolver(text: str) -> str:
    try:
        return parse_resolver(text)
    except Wrong as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _hop(text: str) -> str:
    try:
        return join_port(*split_port(text, 587))
    except Wrong as error:
        raise argparse.ArgumentTypeError(str(error)) from None
