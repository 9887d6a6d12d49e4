"""Guessing at a real server: refused at connect, mail goes on, the operator decides."""

from __future__ import annotations

import imaplib
import json
import re
import smtplib
import socket
import ssl
from typing import Any

import pytest

PASSWORD = "correct horse battery"
EVIL = "127.66.6.6"

#: As docs/operations.rst gives it to fail2ban, its <HOST> written out.
FAILREGEX = r"Login refused at \S+ from (?P<host>\S+): "


def imap(server: Any, source: str) -> imaplib.IMAP4:
    """A connection from one of loopback's addresses."""

    class From(imaplib.IMAP4):
        def _create_socket(self, timeout: float | None = None) -> socket.socket:
            return socket.create_connection((self.host, self.port), 30, (source, 0))

    return From(server.address, 2143)


def guess(server: Any, password: str, source: str = EVIL, name: str = "bob@ours.test") -> str:
    """What became of one attempt, on a connection of its own."""
    try:
        client = imap(server, source)
    except imaplib.IMAP4.error as refused:
        return str(refused)
    try:
        client.starttls(ssl.create_default_context(cafile=str(server.ca)))
        client.login(name, password)
        return "in"
    except imaplib.IMAP4.error as failed:
        return str(failed)
    finally:
        client.shutdown()


def bans(server: Any) -> list[dict[str, Any]]:
    done = server.command("ban", "list", "--json")
    assert done.returncode == 0, done.stderr
    listed: list[dict[str, Any]] = json.loads(done.stdout)["bans"]
    return listed


def greeting(server: Any, port: int, source: str) -> bytes:
    with socket.create_connection((server.address, port), 30, (source, 0)) as connection:
        connection.settimeout(30)
        return connection.recv(1000)


def test_what_the_operator_bans_is_refused_at_every_door_and_over_a_restart(make_server: Any) -> None:
    server = make_server()
    assert guess(server, PASSWORD) == "in"
    added = server.command("ban", "add", "127.66.6.0/24", "--for", "2h", "--reason", "spam")
    assert added.returncode == 0 and "127.66.6.0/24 is refused" in added.stdout
    for restart in (False, True):
        if restart:
            server.stop()
            assert [ban["network"] for ban in bans(server)] == ["127.66.6.0/24"], "also without a server"
            server.start()
        assert greeting(server, 2525, EVIL).startswith(b"554 5.7.1 Connections from your network are refused")
        assert greeting(server, 2587, EVIL).startswith(b"554 ")
        assert greeting(server, 2110, EVIL).startswith(b"-ERR ")
        assert greeting(server, 2143, EVIL).startswith(b"* BYE ")
        assert greeting(server, 2525, "127.66.7.1").startswith(b"220 ")
    shown = server.command("ban").stdout
    assert "127.66.6.0/24  refused at every door for 1 h 59 min more (yours): spam" in shown
    assert server.command("ban", "remove", "127.66.6.1").returncode == 1
    assert server.command("ban", "remove", "127.66.6.0/24").returncode == 0
    assert guess(server, PASSWORD) == "in"
    server.stop()
    assert server.command("ban", "add", EVIL, "--logins").returncode == 0
    assert server.command("ban", "add", "0.0.0.0/0").returncode == 1
    server.start()
    assert greeting(server, 2525, EVIL).startswith(b"220 ") and greeting(server, 2143, EVIL).startswith(
        b"* BYE"
    )


def test_a_guesser_is_refused_at_connect_and_fail2ban_could_have_read_it(make_server: Any) -> None:
    server = make_server(start=False)
    # The waits between guesses would make this test slow; their length is no part of it.
    patch = "import lorrainemail.sasl.throttle as t; t.SPACING = (0.0,); t.ACCOUNT_WAIT = 0.0\n"
    (server.directory / "sitecustomize.py").write_text(patch)
    server.start({"PYTHONPATH": str(server.directory)})
    assert guess(server, PASSWORD, "127.1.1.1") == "in"
    answers = [guess(server, f"guess {number}") for number in range(23)]
    assert "AUTHENTICATIONFAILED" in answers[0] and "AUTHENTICATIONFAILED" in answers[19]
    assert all("refused" in answer for answer in answers[20:]), answers
    ((ban),) = bans(server)
    assert ban["network"] == EVIL and ban["automatic"] and ban["scope"] == "logins"
    found = re.findall(FAILREGEX, server.log_text())
    assert found == [EVIL] * 20
    # Mail from there is another matter, and so is everybody else.
    with smtplib.SMTP(server.address, 2525, timeout=30, source_address=(EVIL, 0)) as client:
        client.sendmail("carole@elorac.test", ["bob@ours.test"], b"Subject: hi\r\n\r\nhi\r\n")
    assert guess(server, PASSWORD, "127.1.1.1") == "in"
    # Many guess from where a user of ours is: he still gets in.
    for number in range(25):
        guess(server, f"guess {number}", "127.1.1.1", f"user{number}@ours.test")
    assert guess(server, PASSWORD, "127.1.1.1") == "in"
    assert len(bans(server)) == 1
    assert server.command("ban", "remove", EVIL).returncode == 0
    assert "AUTHENTICATIONFAILED" in guess(server, "guess 0")


@pytest.mark.parametrize("words", [("add",), ("add", EVIL, "--for", "soon"), ("what",)])
def test_wrong_usage_says_so(make_server: Any, words: tuple[str, ...]) -> None:
    server = make_server(start=False)
    assert server.command("ban", *words).returncode == 2
