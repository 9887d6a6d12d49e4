"""What a person reads when the server has started: where it listens, and how to send himself a message.

Printed by :mod:`lorrainemail.tap` before twistd turns the output into its log. No secret is in it: the
commands read the password from its file. They work as printed, pasted into a POSIX shell.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence

from lorrainemail.config.default import ACCOUNT
from lorrainemail.config.model import Settings
from lorrainemail.setup.first_start import Prepared
from lorrainemail.setup.places import PASSWORD_FILE
from lorrainemail.setup.ports import BoundPort
from lorrainemail.version import VERSION

_DOORS = {
    "smtp": "SMTP",
    "submission": "submission, STARTTLS",
    "submissions": "submission, TLS",
    "lmtp": "LMTP",
    "pop3": "POP3, STLS",
    "pop3s": "POP3, TLS",
    "imap": "IMAP, STARTTLS",
    "imaps": "IMAP, TLS",
    "managesieve": "ManageSieve, STARTTLS",
    "dns": "DNS",
    "http": "HTTP",
    "https": "HTTPS",
    "metrics": "HTTP, numbers for Prometheus",
}


def greeting(settings: Settings, prepared: Prepared, ports: Sequence[BoundPort], root: bool) -> str:
    """The whole text.

    :param root: the server stays root, which the operator should know.
    """
    lines = [f"lorrainemail {VERSION} for {settings.hostname}", ""]
    lines += _addresses(ports)
    lines += [
        "",
        f"  state          {settings.state}",
        f"  configuration  {prepared.located.file}",
    ]
    if prepared.authority:
        lines.append(f"  certificate    self-signed; clients verify it with {prepared.authority}")
    password = os.path.join(settings.state, PASSWORD_FILE)
    if os.path.exists(password):
        lines += ["", *_first_steps(settings, prepared, ports, password)]
    if not any(port.port for port in ports):
        lines += ["", "No door is open: name some in [listen] of the configuration."]
    if root:
        lines += [
            "",
            "This server runs as root. Start it with --uid and --gid, or use etc/lorrainemail.service.",
        ]
    return "\n".join(lines) + "\n"


def _addresses(ports: Sequence[BoundPort]) -> list[str]:
    lines = []
    for door, words in _DOORS.items():
        where = [f"{_bracketed(port.host)}:{port.port}" for port in ports if port.door == door and port.port]
        where += [port.host for port in ports if port.door == door and not port.port]
        if where:
            lines.append(f"  {words:24} {'  '.join(where)}")
    return lines


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _first_steps(
    settings: Settings, prepared: Prepared, ports: Sequence[BoundPort], password: str
) -> list[str]:
    lines = [f"The first account is {ACCOUNT}; its password is in {password}"]
    submission = _reachable(ports, "submission")
    imaps = _reachable(ports, "imaps")
    if submission and imaps and prepared.authority:
        authority = shlex.quote(prepared.authority)
        user = f'"{ACCOUNT}:$(cat {shlex.quote(password)})"'
        lines += [
            "Send yourself a message, and read it back:",
            "",
            rf"  printf 'From: {ACCOUNT}\r\nTo: {ACCOUNT}\r\nSubject: Hello\r\n\r\nIt works.\r\n' |",
            f"  curl --ssl-reqd --cacert {authority} --user {user} \\",
            f"       --mail-from {ACCOUNT} --mail-rcpt {ACCOUNT} --upload-file - smtp://{submission}",
            "",
            f"  curl --cacert {authority} --user {user} \\",
            f"       'imaps://{imaps}/INBOX;MAILINDEX=1'",
        ]
        plain = _reachable(ports, "smtp")
        if plain:
            lines += [
                "",
                f"  swaks --server {plain} --to {ACCOUNT}     # if you have swaks: as another server would",
            ]
    command = f"{shlex.quote(_command())} --config {shlex.quote(str(prepared.located.file))}"
    lines += [
        "",
        "For your own domain stop this server; then, as root for the ports 25, 587, 465, 993, ...",
        "",
        f"  {command} init your.domain",
        f"  {command} check",
        "",
        "configure it, make keys and your account, and say which DNS records to set and what is wrong.",
    ]
    return lines


def _command() -> str:
    """The operator's command as it can be pasted: with its path, unless the shell finds it."""
    beside = os.path.join(os.path.dirname(sys.executable), "lorrainemail")
    found = shutil.which("lorrainemail")
    if os.path.exists(beside) and (found is None or not os.path.samefile(found, beside)):
        return beside
    return "lorrainemail"


def _reachable(ports: Sequence[BoundPort], door: str) -> str:
    """Where a client on this machine finds a door; "" where it is closed."""
    for port in ports:
        if port.door == door and port.port:
            host = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(port.host, port.host)
            return f"{_bracketed(host)}:{port.port}"
    return ""
