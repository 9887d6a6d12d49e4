"""The servers that the SMTP benchmarks measure: ours as shipped, and Debian's Postfix beside it.

Each is made in a directory of its own, listens on loopback only, and tells of its processes. Called by
:mod:`smtp_local` and :mod:`smtp_relay`.
"""

from __future__ import annotations

import imaplib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from argon2 import PasswordHasher
from smtp_load import DOMAIN, HOST, PATIENCE

PASSWORD = "correct horse battery"
TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of these processes and of their ended children."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(fields[index]) for index in (11, 12, 13, 14))
    return total / TICKS


def resident(pid: int) -> float:
    """RSS in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def wait_for_greeting(port: int, process: subprocess.Popen[bytes] | None, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            break
        try:
            with socket.create_connection((HOST, port), timeout=5) as connection:
                if connection.recv(3) == b"220":
                    return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{log.read_text()[-3000:] if log.exists() else ''}")


def may_run_postfix() -> bool:
    """Whether Postfix can be measured here; says so where not."""
    if shutil.which("postfix") is not None and os.geteuid() == 0:
        return True
    print("postfix        skipped: it is not installed, or this is not root")
    return False


class Lorrainemail:
    """The server as shipped.

    :param callbacks: times every callback of the reactor.
    :param command: another server: {state} and {port} are replaced.
    :param next_hop: port on loopback to which it relays what loopback gives it; 0: nothing is relayed.
    :param checks: of the policy. Without those that ask the DNS, what the world's name servers need is not
        measured.
    :param more: tables of the configuration. ``keys``: a directory that becomes ``dkim``.
    """

    name = "lorrainemail"

    def __init__(
        self,
        directory: Path,
        accounts: int,
        callbacks: bool = False,
        command: str = "",
        next_hop: int = 0,
        checks: tuple[str, ...] = ("limits", "helo", "loops"),
        more: str = "",
        keys: Path | None = None,
    ) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.state.mkdir(parents=True, mode=0o700)
        self.port = free_port()
        self.imap = free_port()
        self.log = directory / "log"
        configuration = (
            f'hostname = "mail.{DOMAIN}"\nlocal_domains = ["{DOMAIN}"]\n'
            + (f'relay_networks = ["{HOST}/32"]\n[relay]\n"*" = "{HOST}:{next_hop}"\n' if next_hop else "")
            + f"[listen]\nsmtp = ['tcp:{self.port}:interface={HOST}']\n"
            f"imap = ['tcp:{self.imap}:interface={HOST}']\n"
            '[auth]\nplaintext = "loopback"\n'
            "[limits]\nconnections_per_peer = 2000\n"
            f"[policy]\nchecks = {list(checks)!r}\n{more}"
        )
        if keys is not None:
            shutil.copytree(keys, self.state / "dkim")
        (self.state / "lorrainemail.toml").write_text(configuration)
        hashed = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1).hash(PASSWORD)
        lines = [f"u{number}@{DOMAIN}:{{ARGON2ID}}{hashed}\n" for number in range(accounts)]
        (self.state / "accounts").write_text("".join(lines))
        words = (
            command.format(state=self.state, port=self.port).split()
            if command
            else [
                str(Path(sys.executable).parent / "twistd"),
                "-n",
                "--pidfile=",
                f"--rundir={directory}",
                "lorrainemail",
                f"--state={self.state}",
            ]
        )
        environment = {**os.environ, **({"LORRAINEMAIL_MEASURE_CALLBACKS": "1"} if callbacks else {})}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=directory, env=environment
            )
        wait_for_greeting(self.port, self.process, self.log)

    def read_once(self, accounts: int) -> None:
        """Open every mailbox, as its owner's client would: from then on its index hears of each delivery."""
        for number in range(accounts):
            with imaplib.IMAP4(HOST, self.imap, timeout=PATIENCE) as session:
                session.login(f"u{number}@{DOMAIN}", PASSWORD)
                session.select("INBOX")

    def pids(self) -> list[int]:
        return [self.process.pid]

    def resident(self) -> float:
        return resident(self.process.pid)

    def delivered(self) -> int:
        homes = self.state.glob(f"mail/{DOMAIN}/*/Maildir")
        return sum(len(os.listdir(home / part)) for home in homes for part in ("new", "cur"))

    def stop(self) -> str:
        """End it; what it says of its callbacks."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        found = re.search(r"reactor: (longest callback.*)", self.log.read_text(errors="replace"))
        return found.group(1) if found else ""


class Postfix:
    """Debian's Postfix, its virtual(8) writing the same mailboxes; its own configuration, loopback only.

    :param next_hop: port on loopback to which it relays what loopback gives it; 0: nothing is relayed.
    :param more: lines of main.cf.
    """

    name = "postfix"

    def __init__(self, directory: Path, accounts: int, next_hop: int = 0, more: str = "") -> None:
        self.directory = directory
        self.port = free_port()
        self.etc, spool, data = directory / "etc", directory / "spool", directory / "data"
        self.mail = directory / "mail"
        for path in (self.etc, spool, data, self.mail):
            path.mkdir(parents=True)
        os.chmod(directory, 0o755)
        os.chmod(directory.parent, 0o755)
        shutil.chown(data, "postfix")
        shutil.chown(self.mail, "nobody")
        self.log = directory / "log"
        master = Path("/usr/share/postfix/master.cf.dist")
        source = (master if master.exists() else Path("/etc/postfix/master.cf")).read_text()
        lines = [
            line
            for line in source.splitlines()
            if not line.startswith(("smtp      inet", "#")) and not re.match(r"\S+\s+inet", line)
        ]
        lines.insert(0, f"{HOST}:{self.port} inet n - n - - smtpd")
        lines = [re.sub(r"^(\S+\s+unix\s+\S+\s+\S+\s+)[y-](\s)", r"\1n\2", line) for line in lines]
        (self.etc / "master.cf").write_text("\n".join(lines) + "\n")
        (self.etc / "vmail").write_text(
            "".join(f"u{number}@{DOMAIN} u{number}/\n" for number in range(accounts))
        )
        (self.etc / "main.cf").write_text(
            f"""compatibility_level = 3.6
queue_directory = {spool}
data_directory = {data}
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {self.log}
maillog_file_prefixes = {directory}
myhostname = mail.{DOMAIN}
mydestination =
inet_interfaces = {HOST}
inet_protocols = ipv4
mynetworks = {HOST + "/32" if next_hop else ""}
relayhost = {f"[{HOST}]:{next_hop}" if next_hop else ""}
local_recipient_maps =
alias_maps =
virtual_mailbox_domains = {DOMAIN}
virtual_mailbox_maps = texthash:{self.etc}/vmail
virtual_mailbox_base = {self.mail}
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_minimum_uid = 100
smtpd_recipient_restrictions = permit_mynetworks, reject_unauth_destination
default_process_limit = 100
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
{more}"""
        )
        self._postfix("start")
        wait_for_greeting(self.port, None, self.log)

    def _postfix(self, word: str) -> None:
        subprocess.run(
            ["postfix", "-c", str(self.etc), word], check=True, capture_output=True, timeout=PATIENCE
        )

    def pids(self) -> list[int]:
        """The master and everything that it started."""
        master = int((self.directory / "spool/pid/master.pid").read_text().strip())
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                parents[int(entry)] = int(fields[1])
        return [pid for pid, parent in parents.items() if pid == master or parent == master]

    def resident(self) -> float:
        return sum(resident(pid) for pid in self.pids())

    def delivered(self) -> int:
        return sum(len(os.listdir(new)) for new in self.mail.glob("*/new"))

    def stop(self) -> str:
        self._postfix("stop")
        return ""
