"""Dovecot as the store: our queue hands accounts' mail to its LMTP door, by UNIX socket and by TCP."""

from __future__ import annotations

import os
import pwd
import signal
import smtplib
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.interop

PATIENCE = 30.0
BOB, CAROL = "bob@ours.test", "carol@ours.test"


class Dovecot:
    """Dovecot with nothing but its LMTP door, one Maildir a user."""

    def __init__(self, program: str, directory: Path) -> None:
        nobody = pwd.getpwnam("nobody")
        user = nobody.pw_name if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self.mail = directory / "mail"
        self.mail.mkdir(parents=True)
        for path in (directory, *directory.parents):
            if path.stat().st_uid == os.getuid():
                path.chmod(path.stat().st_mode | 0o011)
        if os.getuid() == 0:
            os.chown(self.mail, nobody.pw_uid, nobody.pw_gid)
        users = directory / "users"
        users.write_text(f"{BOB}::::::\n{CAROL}::::::\n")
        users.chmod(0o644)
        # A UNIX socket's path is at most 107 octets long.
        self.run = Path("/tmp") / f"dovecot-{os.getpid()}"
        self.socket = self.run / "lmtp"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        configuration = directory / "dovecot.conf"
        group = pwd.getpwnam(user).pw_gid
        configuration.write_text(
            f"""base_dir = {self.run}
state_dir = {directory}/state
log_path = {directory}/log
protocols = lmtp
ssl = no
default_login_user = {user}
default_internal_user = {user}
default_internal_group =
mail_location = maildir:{self.mail}/%n
mail_uid = {user}
mail_gid = {group}
first_valid_uid = 1
first_valid_gid = 0
recipient_delimiter = +
lmtp_save_to_detail_mailbox = yes
lda_mailbox_autocreate = yes
passdb {{
  driver = passwd-file
  args = {users}
}}
userdb {{
  driver = passwd-file
  args = {users}
  default_fields = uid={user} gid={group} home={self.mail}/%n
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0666
  }}
  inet_listener tcp {{
    address = 127.0.0.1
    port = {self.port}
  }}
}}
"""
        )
        self.log = directory / "log"
        self.process = subprocess.Popen([program, "-F", "-c", str(configuration)], stdin=subprocess.DEVNULL)

    def ready(self) -> bool:
        assert self.process.poll() is None, "Dovecot ended"
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(str(self.socket))
                return client.recv(3) == b"220"
        except OSError:
            return False

    def messages(self, user: str, folder: str = "") -> list[bytes]:
        place = self.mail / user / (f".{folder}" if folder else "")
        return [path.read_bytes() for part in ("new", "cur") for path in sorted((place / part).glob("*"))]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(PATIENCE)
        for path in sorted(self.run.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        if self.run.exists():
            self.run.rmdir()


@pytest.fixture
def tmp_path(passable: Path) -> Path:
    return passable


@pytest.fixture
def dovecot(tmp_path: Path, tool: Callable[[str], str]) -> Iterator[Dovecot]:
    program = tool("dovecot")
    if not os.path.exists("/usr/lib/dovecot/lmtp"):
        pytest.skip("dovecot-lmtpd is not installed")
    made = Dovecot(program, tmp_path / "dovecot")
    yield made
    made.stop()


def send(server: Any, *to: str, body: str = "hello\r\n.dot\r\n") -> None:
    with smtplib.SMTP(server.address, 2525, timeout=PATIENCE) as client:
        client.sendmail("eve@far.test", list(to), f"Subject: hi\r\n\r\n{body}")


def test_dovecot_keeps_the_mail_of_all_our_accounts(make_server: Any, dovecot: Dovecot) -> None:
    server = make_server(
        accounts=(BOB, CAROL, "ghost@ours.test"),
        domains=("ours.test", "tcp.test"),
        configuration=f'[deliver]\n"*" = "lmtp:unix:{dovecot.socket}"\n'
        f'"tcp.test" = {{ courier = "lmtp", argument = "127.0.0.1:{dovecot.port}", accounts = false }}\n',
        start=False,
    )
    server.wait(dovecot.ready, "Dovecot's socket")
    (server.state / "aliases").write_text("all: bob, carol\n")
    server.start()
    send(server, "all@ours.test")
    server.wait(lambda: dovecot.messages("bob") and dovecot.messages("carol"), "the alias's copies")
    (message,) = dovecot.messages("bob")
    assert message.endswith(b"\nhello\n.dot\n") and b"Return-Path: <eve@far.test>" in message
    assert not server.messages(BOB)

    # One reply a recipient: Dovecot does not know the ghost, and that is nobody else's affair.
    send(server, "ghost@ours.test", "bob+lists@ours.test")
    server.wait(lambda: dovecot.messages("bob", "lists"), "the folder of the detail")
    server.wait(lambda: "refused for ghost@ours.test" in server.log_text(), "the refusal")
    assert "User doesn't exist" in server.log_text()

    send(server, CAROL, body="x" * 990 + "\r\n" + "y\r\n" * 200_000)
    server.wait(lambda: len(dovecot.messages("carol")) == 2, "the large one")
    assert max(map(len, dovecot.messages("carol"))) > 400_000

    send(server, "nobody@tcp.test")
    server.wait(lambda: "refused for nobody@tcp.test" in server.log_text(), "the refusal by TCP")
    server.wait(lambda: not server.queued(), "an empty queue")


def test_mail_waits_while_dovecot_is_down_and_takes_the_new_row(make_server: Any, dovecot: Dovecot) -> None:
    server = make_server(
        configuration='[deliver]\n"*" = "lmtp:unix:/tmp/there-is-no-such-socket"\n[queue]\nretry = ["1h"]\n'
    )
    send(server, BOB)
    server.wait(lambda: "deferred for bob@ours.test" in server.log_text(), "the deferral")
    server.wait(dovecot.ready, "Dovecot's socket")
    text = server.configuration.read_text()
    server.configuration.write_text(text.replace("/tmp/there-is-no-such-socket", str(dovecot.socket)))
    assert server.command("reload").returncode == 0
    (item,) = [path.stem for path in server.queued() if path.suffix == ".json"]
    assert server.command("queue", "retry", item).returncode == 0
    server.wait(lambda: dovecot.messages("bob"), "the message")
