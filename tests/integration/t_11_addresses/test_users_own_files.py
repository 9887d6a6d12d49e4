"""Users' own .forward files on a running server, their commands run by the helper as those users."""

from __future__ import annotations

import json
import os
import pwd
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 30.0
BOB = "bob@ours.test"
#: Whom commands run as: another user where that is possible.
USER = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


class Helper:
    """The real program on a socket of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = Path("/tmp") / f"lorrainemail-helper-{os.getpid()}"
        self.configuration = directory / "helper.toml"
        self.commands: dict[str, list[str]] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, **more: object) -> None:
        server = pwd.getpwuid(os.geteuid()).pw_name
        rows = "".join(f"{json.dumps(name)} = {json.dumps(argv)}\n" for name, argv in self.commands.items())
        top = "".join(f"{name} = {json.dumps(value)}\n" for name, value in more.items())
        self.configuration.write_text(
            f'server = "{server}"\n{top}[accounts]\n"{BOB}" = "{USER}"\n[commands]\n{rows}'
        )
        self.configuration.chmod(0o644)

    def start(self) -> None:
        words = ["--config", str(self.configuration), "--socket", str(self.socket)]
        program = [sys.executable, "-m", "lorrainemail.cli.helper", *words]
        self.process = subprocess.Popen(program, cwd=self.directory)

    def ask(self, request: object, message: bytes = b"Subject: x\n\nhello\n") -> dict[str, Any]:
        path = self.directory / "message"
        path.write_bytes(message)
        with socket.socket(socket.AF_UNIX) as client, open(path, "rb") as file:
            client.settimeout(PATIENCE)
            client.connect(str(self.socket))
            socket.send_fds(client, [json.dumps(request).encode() + b"\n"], [file.fileno()])
            answer = b""
            while part := client.recv(65536):
                answer += part
        found: dict[str, Any] = json.loads(answer)
        return found

    def run(self, command: str, account: str = BOB, **environment: str) -> dict[str, Any]:
        return self.ask({"version": 1, "account": account, "command": command, "environment": environment})


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Other users pass through it; another pytest that starts meanwhile would close the usual one to them."""
    with tempfile.TemporaryDirectory(prefix="lorrainemail-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    made = Helper(tmp_path)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o011)
    yield made
    if made.process is not None:
        made.process.send_signal(signal.SIGTERM)
        made.process.wait(PATIENCE)
    made.socket.unlink(missing_ok=True)


def wait_for(condition: Callable[[], object]) -> None:
    import time

    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_helper_runs_what_it_is_configured_for_and_nothing_else(helper: Helper) -> None:
    helper.commands = {
        "who": ["/bin/sh", "-c", "id -un; echo $# $0 $1; env; cat; exit 75", "%u", "%u x"],
        "hang": ["/bin/sh", "-c", "sleep 1000 & sleep 1000"],
        "flood": ["/usr/bin/yes"],
        "missing": ["/nonexistent/program"],
    }
    helper.write(time=2)
    helper.start()
    wait_for(helper.socket.exists)
    found = helper.run("who", SENDER="-a`b`@x.org", LD_PRELOAD="/tmp/x.so", PATH="/tmp")
    assert found["status"] == 75
    lines = found["output"].splitlines()
    assert lines[:2] == [USER, f"1 {USER} %u x"]
    assert "SENDER=_a_b_@x.org" in lines and "hello" in lines
    assert "PATH=/usr/local/bin:/usr/bin:/bin" in lines
    assert not any(line.startswith(("LD_PRELOAD", "PYTHON", "PYTEST", "SSH")) for line in lines)
    assert helper.run("/bin/sh") == {"error": "not configured"}
    assert helper.run("who", account="root@ours.test") == {"error": "not configured"}
    assert "too long" in helper.run("hang")["output"]
    assert "too much" in helper.run("flood")["output"]
    assert helper.run("missing")["status"] == 75
    assert "error" in helper.ask(["who"])
    assert "error" in helper.ask({"version": 2})
    assert "error" in helper.ask({"version": 1, "command": "x" * 20_000})
    helper.configuration.chmod(0o666)
    assert "error" in helper.run("who")


@pytest.mark.parametrize(
    "text",
    [
        'server = "no such user"\n',
        'server = "root"\n[accounts]\n"a@x.org" = "root"\n',
        'server = "root"\n[commands]\na = ["relative"]\n',
        'server = "root"\n[commands]\na = "/bin/sh -c x"\n',
        'server = "root"\nother = 1\n',
        'server = "root"\ntime = 0\n',
        "server = ",
    ],
)
def test_a_configuration_that_would_allow_too_much_is_refused(helper: Helper, text: str) -> None:
    helper.configuration.write_text(text)
    helper.configuration.chmod(0o644)
    words = [
        sys.executable,
        "-m",
        "lorrainemail.cli.helper",
        "--check",
        "--config",
        str(helper.configuration),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert "helper.toml" in done.stderr


def test_a_users_command_runs_as_he(make_server: Any, helper: Helper, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    output = tmp_path / "out"
    output.mkdir()
    output.chmod(0o777)
    user = pwd.getpwnam(USER)
    server = make_server(
        accounts=("carol@ours.test",),
        configuration="[queue]\nretry = ['1h']\n[aliases]\nuser_files = ['forward', 'qmail']\n"
        f"[commands]\nhelper = '{helper.socket}'\n",
        start=False,
    )
    with open(server.state / "accounts", "a") as accounts:
        accounts.write(f"{BOB}::{user.pw_uid}:{user.pw_gid}::{home}::\n")
    (home / ".forward").write_text('\\bob, "|record it", carol\n"|not configured"\n')
    (home / ".forward").chmod(0o644)
    os.chown(home / ".forward", user.pw_uid, -1)
    os.chown(home, user.pw_uid, -1)
    assert f"{helper.socket} is not there" in server.command("check").stdout
    helper.commands = {"record it": ["/bin/sh", "-c", f"cat > {output}/taken; id -un > {output}/who"]}
    helper.write()
    helper.start()
    wait_for(helper.socket.exists)
    server.start()
    # A name that is no path is the helper's to know.
    with smtplib.SMTP(server.address, 2525, timeout=PATIENCE) as client:
        client.sendmail("eve@far.test", [BOB], "Subject: hi\r\n\r\nfor bob\r\n")
    assert len(server.messages(BOB)) == 1
    assert len(server.messages("carol@ours.test")) == 1
    server.wait(lambda: (output / "who").exists() and (output / "who").read_text(), "the user's command")
    assert (output / "who").read_text().strip() == USER
    assert "\nfor bob\n" in (output / "taken").read_text()
    server.wait(lambda: "does not have this account or command" in server.log_text(), "the refusal")
