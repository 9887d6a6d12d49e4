"""Foreign servers and clients: found here or skipped with a reason; in CI only listed reasons may skip."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: Reasons for which an interop test may skip in CI, each with why.
ALLOWED_SKIPS: tuple[str, ...] = (
    # A container may not be allowed to mount; Exim and OpenSMTPD need paths that only a mount can give them.
    "a mount namespace needs root",
)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI a missing peer is a failure: a test that silently skips there protects nobody."""
    outcome = yield
    report = outcome.get_result()
    if not (report.skipped and os.environ.get("CI") and item.get_closest_marker("interop")):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(allowed in reason for allowed in ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"an interop test may not skip in CI: {reason}"


@pytest.fixture
def tool() -> Callable[[str], str]:
    """The path of a foreign program, or a skip that names the package to install."""

    def find(name: str) -> str:
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
        if path is None:
            pytest.skip(f"{name} is not installed")
        return path

    return find


@pytest.fixture
def passable() -> Iterator[Path]:
    """A directory that other users can pass through, for peers that give up root. pytest's own are closed to
    them, and any other pytest that starts meanwhile closes their parent again."""
    with tempfile.TemporaryDirectory(prefix="lorrainemail-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        yield Path(name)


class Postfix:
    """A Postfix of Debian's package with queue, configuration and Maildirs of its own, on loopback."""

    def __init__(self, directory: Path, address: str, transports: str) -> None:
        self.directory = directory
        self.address = address
        self.port = 2526
        self.mail = directory / "mail"
        self.log = directory / "maillog"
        self.etc = directory / "etc"
        owner = pwd.getpwnam("postfix")
        for path in (self.etc, directory / "spool", directory / "data", self.mail):
            path.mkdir(parents=True)
        os.chown(directory / "data", owner.pw_uid, 0)
        os.chown(self.mail, owner.pw_uid, owner.pw_gid)
        directory.chmod(0o755)  # Postfix's processes give up root
        (self.etc / "main.cf").write_text(
            f"""compatibility_level = 3.6
queue_directory = {directory}/spool
data_directory = {directory}/data
mail_owner = postfix
setgid_group = postdrop
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
myhostname = mail.postfix.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
maillog_file = {self.log}
maillog_file_prefixes = {directory}
virtual_mailbox_domains = postfix.test
virtual_mailbox_base = {self.mail}
virtual_mailbox_maps = inline:{{ {{ peer@postfix.test = peer/ }} }}
virtual_uid_maps = static:{owner.pw_uid}
virtual_gid_maps = static:{owner.pw_gid}
virtual_minimum_uid = 1
message_size_limit = 60000000
virtual_mailbox_limit = 0
transport_maps = inline:{{ {transports} }}
smtp_tls_security_level = may
smtp_dns_support_level = disabled
"""
        )
        lines = []
        for line in Path("/usr/share/postfix/master.cf.dist").read_text().splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            fields = line.split()
            if not line.startswith((" ", "\t")):
                if fields[:2] == ["smtp", "inet"]:
                    fields[0] = f"{address}:{self.port}"
                fields[4] = "n"  # no chroot
            lines.append((" " if line.startswith((" ", "\t")) else "") + " ".join(fields))
        (self.etc / "master.cf").write_text("\n".join(lines) + "\n")

    def run(self, verb: str) -> None:
        subprocess.run(
            ["postfix", "-c", str(self.etc), verb],
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def messages(self) -> list[bytes]:
        return [file.read_bytes() for file in sorted((self.mail / "peer" / "new").glob("*"))]

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@pytest.fixture
def postfix(tool: Callable[[str], str]) -> Iterator[Callable[[str], Postfix]]:
    """Start a Postfix: ``postfix(transports)``, where transports are inline map entries. Each has a loopback
    address of its own, so that test runs do not meet."""
    tool("postfix")
    if os.geteuid() != 0:
        pytest.skip("Postfix wants to be started as root")
    started: list[Postfix] = []

    def start(transports: str) -> Postfix:
        address = f"127.{os.urandom(1)[0] % 100 + 2}.{os.urandom(1)[0]}.{os.urandom(1)[0] % 254 + 1}"
        # Not below pytest's own directory, which nobody but root may enter.
        server = Postfix(Path(tempfile.mkdtemp(prefix="lorrainemail-postfix-")), address, transports)
        server.run("start")
        started.append(server)
        return server

    yield start
    for server in started:
        server.run("stop")
        shutil.rmtree(server.directory, ignore_errors=True)
