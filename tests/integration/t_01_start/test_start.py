"""A server's start and end as an operator lives them: real ``twistd`` processes, in front and as a daemon."""

from __future__ import annotations

import contextlib
import io
import os
import pwd
import re
import shutil
import signal
import smtplib
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lorrainemail.config.load  # noqa: F401 (for a child that could not read it any more)
from lorrainemail.cli import sendmail

BIN = Path(sys.executable).parent
#: Bound on every wait, in seconds.
PATIENCE = 30.0

#: ``twistd`` itself, with the ports of the embedded default moved to free ones: others may use the real ones.
MOVED = """
import json, os, sys
from lorrainemail.config import default
default.PORTS.update(json.loads(os.environ["TEST_PORTS"]))
from twisted.scripts.twistd import run
sys.argv[0] = "twistd"
run()
"""
DOORS = ("smtp", "submission", "submissions", "pop3", "pop3s", "imap", "imaps")


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain for {what}")
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Place:
    """A directory to start servers in, and the ports of its embedded default."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "lorrainemail-state"
        self.ports = dict(zip(DOORS, free_ports(len(DOORS)), strict=True))
        self.started: list[subprocess.Popen[bytes]] = []
        self.daemons: list[Path] = []

    def words(self, *twistd: str, options: tuple[str, ...] = ()) -> list[str]:
        return [sys.executable, "-c", MOVED, *twistd, "lorrainemail", *options]

    def environment(self, **more: str) -> dict[str, str]:
        ports = "{" + ", ".join(f'"{door}": {port}' for door, port in self.ports.items()) + "}"
        return {**os.environ, "TEST_PORTS": ports, **more}

    def front(
        self, *options: str, twistd: tuple[str, ...] = (), name: str = "1", **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start one in the foreground; its output goes to ``out`` + name."""
        with open(self.directory / f"out{name}", "wb") as out:
            process = subprocess.Popen(
                self.words("-n", "--pidfile", f"pid{name}", *twistd, options=options),
                cwd=self.directory,
                env=self.environment(**environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        return process

    def fails(self, *options: str, twistd: tuple[str, ...] = ()) -> str:
        """A start that must fail, in front and as a daemon; what it says, which must be the same."""
        said = []
        for mode in (["-n"], []):
            done = subprocess.run(
                self.words(
                    *mode, "--pidfile", "pid-fails", "--logfile", "log-fails", *twistd, options=options
                ),
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            assert done.returncode == 1, done
            assert "Traceback" not in done.stderr
            assert done.stdout == ""
            said.append(done.stderr)
        assert said[0] == said[1]
        (self.directory / "log-fails").unlink(missing_ok=True)
        return said[0]

    def output(self, name: str = "1") -> str:
        return (self.directory / f"out{name}").read_text(errors="replace")

    def wait_open(self, process: subprocess.Popen[bytes], name: str = "1") -> None:
        def greets() -> bool:
            if process.poll() is not None:
                pytest.fail(f"it ended with {process.returncode}:\n{self.output(name)}")
            return self.greets()

        wait_for(greets, "the greeting")

    def greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.ports["smtp"]), timeout=5) as connection:
                return connection.recv(3) == b"220"
        except OSError:
            return False

    def end(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "lorrainemail"), *words],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def files(self) -> dict[str, bytes]:
        found = {}
        for path in self.state.rglob("*"):
            if path.is_file() and "trace" not in path.name and path.name != "lock":
                found[str(path.relative_to(self.state))] = path.read_bytes()
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for process in place.started:
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE)
    for pidfile in place.daemons:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(pidfile.read_text()), signal.SIGKILL)


@pytest.fixture
def open_place() -> Iterator[Place]:
    """A place that other users may enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        place = Place(Path(name))
        yield place
        for process in place.started:
            if process.poll() is None:
                process.kill()
                process.wait(PATIENCE)


def test_the_first_start_makes_all_that_is_needed_and_its_printed_commands_work(place: Place) -> None:
    process = place.front()
    place.wait_open(process)
    out = place.output()
    password = (place.state / "first-account").read_text().strip()
    assert len(password) >= 16
    assert password not in out
    assert str(place.state / "first-account") in out
    for path, mode in {
        ".": 0o700,
        "first-account": 0o600,
        "accounts": 0o600,
        "tls": 0o700,
        "tls/ca-key.pem": 0o600,
        "tls/self-signed-key.pem": 0o600,
        "control.sock": 0o600,
        "lorrainemail.toml": 0o600,
    }.items():
        assert stat.S_IMODE((place.state / path).stat().st_mode) == mode, path
    for port in place.ports.values():
        assert f"127.0.0.1:{port}" in out
    (check,) = re.findall(r"^  (\S.* check)$", out, re.M)
    done = subprocess.run(
        check, shell=True, cwd="/", capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"State: {place.state}\n" in done.stdout

    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    send, read = re.findall(r"^  (?:printf.*?--upload-file - \S+|curl --cacert.*?')$", out, re.M | re.S)
    for commands in (send, read):
        done = subprocess.run(["sh", "-ec", commands], capture_output=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stderr
    assert b"Subject: Hello\r\n" in done.stdout
    assert done.stdout.endswith(b"\r\n\r\nIt works.\r\n")
    place.end(process)
    assert password not in place.output()
    assert "Traceback" not in place.output()
    (init,) = re.findall(r"^  (\S.* init) your\.domain$", out, re.M)
    trial = "bricoleur.com --yes --no-probe --high-ports --systemd no --acme none --interface 127.0.0.1"
    done = subprocess.run(
        f"{init} {trial}", shell=True, cwd="/", capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 'hostname = "mail.bricoleur.com"' in (place.state / "lorrainemail.toml").read_text()


def test_a_second_start_reuses_everything(place: Place) -> None:
    process = place.front()
    place.wait_open(process)
    place.end(process)
    before = place.files()
    process = place.front(name="2")
    place.wait_open(process, "2")
    place.end(process)
    assert place.files() == before
    assert "The first account is me@example.test" in place.output("2")


def test_a_port_in_use_is_one_clear_line_and_leaves_nothing(place: Place) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", place.ports["imap"]))
        other.listen()
        said = place.fails()
    assert said.count("\n") == 1
    assert f"tcp:{place.ports['imap']}:interface=127.0.0.1" in said
    assert "in use" in said
    assert list(place.directory.iterdir()) == []
    process = place.front()
    place.wait_open(process)
    place.end(process)


def test_a_state_directory_that_cannot_be_made_is_one_clear_line(place: Place) -> None:
    (place.directory / "file").write_text("in the way")
    said = place.fails("--state", "file/state")
    assert said == (
        f"lorrainemail: cannot make the state directory {place.directory}/file/state (Not a directory): "
        "name a directory that you may write with --state\n"
    )
    assert "is not a directory" in place.fails("--state", "file")


def test_a_broken_configuration_is_told_whole_and_with_lines(place: Place) -> None:
    place.state.mkdir(mode=0o700)
    (place.state / "lorrainemail.toml").write_text(
        'hostname = "mail.test"\nlocal_domains = "one"\n[limits]\nmessage_size = 5\n[bogus]\n'
    )
    said = place.fails()
    file = place.state / "lorrainemail.toml"
    assert [line.split(": ")[1] for line in said.splitlines()] == [f"{file}:{line}" for line in (2, 4, 5)]
    assert [path.name for path in place.state.iterdir()] == ["lorrainemail.toml"]


def test_a_broken_table_or_certificate_is_told_and_nothing_is_left(place: Place) -> None:
    place.state.mkdir(mode=0o700)
    (place.state / "accounts").write_text("no account at all\n")
    assert f"{place.state}/accounts:1: " in place.fails()
    (place.state / "accounts").unlink()
    (place.state / "lorrainemail.toml").write_text('[tls]\ncertificate = "x.pem"\nkey = "y.pem"\n')
    assert "x.pem: cannot read the TLS certificate: No such file" in place.fails()
    for line, wrong in ((1, 'tables = "oracle"\n'), (2, '[policy]\nchecks = ["oracle"]\n')):
        (place.state / "lorrainemail.toml").write_text(wrong)
        assert place.fails().startswith(f"lorrainemail: {place.state}/lorrainemail.toml:{line}: ")
    assert [path.name for path in place.state.iterdir()] == ["lorrainemail.toml"]


@pytest.mark.parametrize("option", ["pidfile", "logfile", "rundir"])
def test_a_directory_that_twistd_will_need_is_missed_before_anything_is_made(
    place: Place, option: str
) -> None:
    missing = place.directory / "missing"
    path = missing if option == "rundir" else missing / "file"
    said = place.fails(twistd=(f"--{option}", str(path)))
    assert said == f"lorrainemail: there is no directory {missing}: make it, or change --{option}\n"
    assert not place.state.exists()


def test_a_second_server_on_the_same_state_says_who_has_it(place: Place) -> None:
    process = place.front()
    place.wait_open(process)
    said = place.fails()
    assert said.startswith(f"lorrainemail: {place.state} is in use by process {process.pid}: ")
    assert place.greets()
    place.end(process)


def test_a_daemon_starts_serves_reloads_and_ends(place: Place) -> None:
    pidfile, log = place.directory / "pid", place.directory / "log"
    place.daemons.append(pidfile)
    done = subprocess.run(
        place.words("--pidfile", str(pidfile), "--logfile", str(log), "--umask", "000"),
        cwd=place.directory,
        env=place.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "lorrainemail.toml" in done.stdout
    wait_for(place.greets, "the daemon's greeting")
    pid = int(pidfile.read_text())
    assert (place.state / "lock").read_text() == f"{pid}\n"
    open_to_others = [path for path in place.state.rglob("*") if path.stat().st_mode & 0o077]
    assert {path.name for path in open_to_others} <= {"ca.pem", "self-signed.pem", "submit.sock"}
    status = place.command("status", "--state", str(place.state))
    assert f"process {pid}" in status.stdout, status.stderr
    assert place.command("reload", "--state", str(place.state)).returncode == 0
    assert place.command("stop", "--state", str(place.state)).stdout == "The server has ended.\n"
    assert not place.greets()
    assert not pidfile.exists()
    assert "Traceback" not in log.read_text()
    assert (place.state / "first-account").read_text().strip() not in log.read_text()


def test_sigterm_says_goodbye_to_open_sessions_and_is_quick(place: Place) -> None:
    process = place.front()
    place.wait_open(process)
    smtp = smtplib.SMTP("127.0.0.1", place.ports["smtp"], timeout=PATIENCE)
    smtp.ehlo("client.test")
    with socket.create_connection(("127.0.0.1", place.ports["imap"]), timeout=PATIENCE) as imap:
        assert imap.recv(4) == b"* OK"
        before = time.monotonic()
        place.end(process)
        assert time.monotonic() - before < 15
        rest = b""
        while more := imap.recv(4096):
            rest += more
    assert b"* BYE" in rest
    assert smtp.getreply()[0] == 421
    assert "Traceback" not in place.output()


def test_sigterm_in_the_middle_of_deliveries_loses_nothing_that_was_answered(place: Place) -> None:
    process = place.front()
    place.wait_open(process)
    answered: list[str] = []
    began = threading.Event()

    def send(name: str) -> None:
        with contextlib.suppress(OSError, smtplib.SMTPException):
            for number in range(1000):
                with smtplib.SMTP("127.0.0.1", place.ports["smtp"], timeout=PATIENCE) as smtp:
                    subject = f"{name}-{number}"
                    smtp.sendmail("a@example.test", "me@example.test", f"Subject: {subject}\r\n\r\nhello\r\n")
                    answered.append(subject)
                if len(answered) > 40:
                    began.set()

    clients = [threading.Thread(target=send, args=(f"c{number}",)) for number in range(6)]
    for client in clients:
        client.start()
    assert began.wait(PATIENCE)
    place.end(process)
    for client in clients:
        client.join(PATIENCE)
    inbox = place.state / "mail" / "example.test" / "me" / "Maildir" / "new"
    stored = [
        re.search(rb"^Subject: (\S+)$", path.read_bytes(), re.M)[1].decode()  # type: ignore[index]
        for path in inbox.iterdir()
    ]
    assert len(stored) == len(set(stored))
    assert set(answered) <= set(stored)
    assert "Traceback" not in place.output()


def test_after_a_kill_the_next_start_finds_no_hindrance(place: Place) -> None:
    process = place.front()
    place.wait_open(process)
    process.kill()
    process.wait(PATIENCE)
    assert (place.state / "control.sock").exists()
    process = place.front(name="2", twistd=("--pidfile", "pid2"))
    place.wait_open(process, "2")
    place.end(process)


def test_sighup_takes_a_good_configuration_and_refuses_a_bad_one_whole(place: Place) -> None:
    process = place.front()
    place.wait_open(process)

    def size() -> str:
        with smtplib.SMTP("127.0.0.1", place.ports["smtp"], timeout=PATIENCE) as smtp:
            smtp.ehlo("client.test")
            return smtp.esmtp_features["size"]

    file = place.state / "lorrainemail.toml"
    good = file.read_text()
    assert size() == "50000000"
    file.write_text(good + '\n[limits]\nmessage_size = "1 MB"\nbogus = 1\n')
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: "was not reloaded" in place.output(), "the refusal")
    assert f"{file}:" in place.output()
    assert size() == "50000000"
    changed = good.replace("mail.example.test", "other.example.test")
    file.write_text(changed + '\n[limits]\nmessage_size = "1 MB"\n')
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: "configuration was reloaded" in place.output(), "the reload")
    assert "hostname has changed; that needs a restart" in place.output()
    assert size() == "1000000"
    place.end(process)


def test_systemd_hands_over_its_sockets_and_hears_that_we_are_ready(place: Place) -> None:
    with socket.socket() as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        place.ports["smtp"] = listener.getsockname()[1]
        notify.bind(str(place.directory / "notify"))
        notify.settimeout(PATIENCE)
        place.state.mkdir(mode=0o700)
        (place.state / "lorrainemail.toml").write_text(
            'hostname = "mail.test"\n[listen]\nsmtp = ["systemd:domain=INET:name=smtp"]\n'
        )
        assert "systemd handed over no such socket" in place.fails()
        process = subprocess.Popen(
            ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", *place.words("-n", "--pidfile", "")],
            cwd=place.directory,
            env=place.environment(
                LISTEN_FDS="1", LISTEN_FDNAMES="smtp", NOTIFY_SOCKET=str(place.directory / "notify")
            ),
            preexec_fn=lambda: os.dup2(listener.fileno(), 3) and None,
            pass_fds=(3,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        place.started.append(process)
        assert notify.recv(1000).startswith(b"READY=1\n")
        assert place.greets()
        process.send_signal(signal.SIGTERM)
        assert notify.recv(1000) == b"STOPPING=1"
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change to another user")
def test_privileges_are_shed_after_low_ports_are_open(open_place: Place) -> None:
    place = open_place
    address = f"127.77.{os.getpid() % 250}.{os.getpid() // 250 % 250}"
    place.state.mkdir(mode=0o700)
    (place.state / "lorrainemail.toml").write_text(
        'hostname = "mail.test"\nlocal_domains = ["ours.test"]\n'
        f"[listen]\nsmtp = ['tcp:25:interface={address}']\n"
    )
    said = place.fails(twistd=("--uid", "nobody", "--gid", "nogroup"))
    assert said.startswith(f"lorrainemail: user nobody cannot write to {place.state}: chown ")
    shutil.chown(place.state, "nobody", "nogroup")
    shutil.chown(place.state / "lorrainemail.toml", "nobody", "nogroup")
    process = place.front(twistd=("--uid", "nobody"))  # and his own group

    def greets() -> bool:
        assert process.poll() is None, place.output()
        try:
            with socket.create_connection((address, 25), timeout=5) as connection:
                return connection.recv(3) == b"220"
        except OSError:
            return False

    wait_for(greets, "the greeting on port 25")
    nobody = shutil._get_uid("nobody")  # type: ignore[attr-defined]
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert re.search(rf"^Uid:\t{nobody}\t{nobody}\t{nobody}\t{nobody}$", status, re.M)
    group = pwd.getpwnam("nobody").pw_gid
    assert re.search(rf"^Gid:\t{group}\t{group}\t{group}\t{group}$", status, re.M)
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    soft, hard = re.search(r"^Max open files\s+(\d+)\s+(\d+)", limits, re.M).groups()  # type: ignore[union-attr]
    assert int(soft) == min(int(hard), 65536) or int(soft) > 65536
    owners = {path.stat().st_uid for path in place.state.rglob("*")}
    assert owners == {nobody}
    assert place.command("reload", "--state", str(place.state)).returncode == 0
    place.end(process)
    assert "Traceback" not in place.output()
    assert "runs as root" not in place.output()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change to another user")
def test_another_users_program_hands_mail_over_at_the_socket_that_is_open_to_it(open_place: Place) -> None:
    place = open_place
    place.state.mkdir(mode=0o700)
    file = place.directory / "mail.toml"
    file.write_text(
        f'hostname = "mail.test"\nlocal_domains = ["ours.test"]\nstate = "{place.state}"\n'
        f"[listen]\nsmtp = ['tcp:{place.ports['smtp']}:interface=127.0.0.1']\n"
        f"local = ['unix:{place.directory}/submit.sock:mode=666']\n"
    )
    file.chmod(0o644)
    (place.state / "accounts").write_text("bob@ours.test:\n")
    process = place.front("--config", str(file))
    place.wait_open(process)
    # In a child of this process: another user may not be able to start this Python at all.
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            sys.stdin = io.TextIOWrapper(io.BytesIO(b"Subject: from cron\n\nhello\n"))
            status = sendmail.main(["--config", str(file), "-f", "cron@ours.test", "bob@ours.test"])
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    (message,) = (place.state / "mail/ours.test/bob/Maildir/new").iterdir()
    assert b"Subject: from cron\n" in message.read_bytes()
    assert "A program of uid 65534 hands over" in place.output()
    place.end(process)


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_are_there_without_a_configuration(option: str, tmp_path: Path) -> None:
    for words in (["twistd", "lorrainemail", option], ["lorrainemail", option]):
        done = subprocess.run(
            [str(BIN / words[0]), *words[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "lorrainemail" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_word_too_much_is_wrong_usage(place: Place) -> None:
    done = subprocess.run(
        [str(BIN / "twistd"), "-n", "lorrainemail", "start"],
        cwd=place.directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert '"start" is not understood' in done.stdout + done.stderr
    assert list(place.directory.iterdir()) == []
