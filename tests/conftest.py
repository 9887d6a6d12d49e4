"""Fixtures that every level of tests shares: real servers as real processes, and the guards around a test.

``make_server`` starts ``twistd -n lorrainemail`` beside ``sys.executable`` with a state directory, a run
directory and a loopback address of its own, so that any number of servers can run side by side.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.task import deferLater

reactor: Any = installed_reactor

#: Bound on every wait for a process of ours, in seconds.
PATIENCE = 30.0

PASSWORD = "correct horse battery"

PORTS = {
    "smtp": 2525,
    "submission": 2587,
    "submissions": 2465,
    "pop3": 2110,
    "pop3s": 2995,
    "imap": 2143,
    "imaps": 2993,
    "managesieve": 2419,
}

BIN = Path(sys.executable).parent


@functools.cache
def password_hash() -> str:
    """One Argon2id hash for all test accounts: made once, it is slow by design."""
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1).hash(PASSWORD)


def loopback_address() -> str:
    """A loopback address that no other server of this run is likely to use."""
    dice = random.SystemRandom()
    return f"127.{dice.randint(10, 250)}.{dice.randint(1, 254)}.{dice.randint(1, 254)}"


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> object:
    """Poll a condition until it is true; fail with ``what`` when it never is."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.02)


class RunningServer:
    """One lorrainemail process with its own state, address and log."""

    def __init__(self, directory: Path, hostname: str, domains: tuple[str, ...], configuration: str) -> None:
        self.directory = directory
        self.address = loopback_address()
        self.hostname = hostname
        self.domains = domains
        self.state = directory / "state"
        self.log = directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.state.mkdir(mode=0o700, parents=True)
        self.configuration = self.state / "lorrainemail.toml"
        listen = "\n".join(
            f"{door} = ['tcp:{port}:interface={self.address}']" for door, port in PORTS.items()
        )
        # Keys before the first table belong to the top level; the rest follows [listen].
        top, bracket, tables = f"\n{configuration}".partition("\n[")
        if "[policy]" not in configuration:
            # The senders of most tests live in domains that no DNS knows.
            tables += '\n[policy]\nchecks = ["limits", "helo", "loops"]\n'
        self.configuration.write_text(
            f'hostname = "{hostname}"\n'
            f"local_domains = {list(domains)!r}\n"
            f"{top}\n\n[listen]\n{listen}\n" + (f"\n[{tables}" if bracket else tables)
        )

    def add_account(self, address: str) -> None:
        """An account with :data:`PASSWORD`, as an operator could write it into the table by hand."""
        with open(self.state / "accounts", "a", encoding="utf-8") as accounts:
            accounts.write(f"{address}:{{ARGON2ID}}{password_hash()}\n")

    def command_line(self, word: str) -> list[str]:
        """The operator's command on this server, for tests that run it themselves."""
        return [str(BIN / "lorrainemail"), word, "--state", str(self.state)]

    def command(self, *words: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the operator's command on this server."""
        return subprocess.run(
            [str(BIN / "lorrainemail"), words[0], "--state", str(self.state), *words[1:]],
            input=input,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=self.directory,
            check=False,
        )

    def start(self, environment: Mapping[str, str] | None = None) -> RunningServer:
        assert self.process is None
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [
                    str(BIN / "twistd"),
                    "-n",
                    "--pidfile",
                    str(self.directory / "pid"),
                    "--rundir",
                    str(self.directory),
                    "lorrainemail",
                    "--state",
                    str(self.state),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, **(environment or {})},
            )
        wait_until(lambda: self.greets() or self.process.poll() is not None, "the server's greeting")
        if self.process.poll() is not None:
            pytest.fail(f"the server did not start:\n{self.log_text()[-4000:]}")
        return self

    def greets(self) -> bool:
        try:
            with socket.create_connection((self.address, PORTS["smtp"]), timeout=5) as connection:
                return connection.recv(3) == b"220"
        except OSError:
            return False

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End the process by its own pid and answer its exit status."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(how)
        try:
            return process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)
            pytest.fail(f"the server did not end by itself:\n{self.log_text()[-4000:]}")

    def wait(self, condition: Callable[[], object], what: str) -> object:
        """:func:`wait_until`, for tests in other folders."""
        return wait_until(condition, what)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def maildir(self, address: str) -> Path:
        local, domain = address.split("@")
        return self.state / "mail" / domain / local / "Maildir"

    def messages(self, address: str) -> list[bytes]:
        """All messages in INBOX as the files hold them, in the order of their names."""
        home = self.maildir(address)
        found = [file for part in ("new", "cur") for file in (home / part).glob("*")]
        return [file.read_bytes() for file in sorted(found, key=lambda file: file.name)]

    def queued(self) -> list[Path]:
        """The files of what waits in the queue."""
        files = (file for file in (self.state / "queue").rglob("*") if file.is_file())
        return [file for file in files if file.parent.name != "history"]

    def wait_for_messages(self, address: str, count: int) -> list[bytes]:
        wait_until(lambda: len(self.messages(address)) >= count, f"{count} message(s) for {address}")
        messages = self.messages(address)
        assert len(messages) == count, f"{len(messages)} messages where {count} were sent"
        return messages

    @property
    def ca(self) -> Path:
        return self.state / "tls" / "ca.pem"


def _left_behind() -> dict[object, str]:
    """What is open in this process now: timers, whatever the reactor reads from, children."""
    found: dict[object, str] = {("call", id(call)): str(call) for call in reactor.getDelayedCalls()}
    for reader in reactor.getReaders():
        if not type(reader).__name__.endswith("Waker"):
            found["reader", id(reader)] = repr(reader)
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found.update({("child", pid): f"child {pid}" for pid in (task / "children").read_text().split()})
    return found


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """A test that leaves a timer, a port, a connection or a process behind fails."""
    before = _left_behind()
    yield
    for _ in range(50):  # what is closing needs a few turns
        left = [words for key, words in _left_behind().items() if key not in before]
        if not left:
            return
        pytest_twisted.blockon(deferLater(reactor, 0.01))
    pytest.fail(f"left behind: {'; '.join(left)[:1000]}")


MakeServer = Callable[..., RunningServer]


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[MakeServer]:
    """Make (and by default start) servers; all are ended, and must end well, after the test."""
    servers: list[RunningServer] = []

    def make(
        hostname: str = "mail.ours.test",
        domains: tuple[str, ...] = ("ours.test",),
        accounts: tuple[str, ...] = ("bob@ours.test",),
        configuration: str = "",
        start: bool = True,
    ) -> RunningServer:
        server = RunningServer(tmp_path / f"server{len(servers)}", hostname, domains, configuration)
        servers.append(server)
        for account in accounts:
            server.add_account(account)
        return server.start() if start else server

    yield make
    for server in servers:
        status = server.stop()
        assert status in (0, -signal.SIGTERM), f"exit status {status}:\n{server.log_text()[-4000:]}"
        assert "Unhandled Error" not in server.log_text(), server.log_text()[-4000:]
        assert "Traceback" not in server.log_text(), server.log_text()[-4000:]
