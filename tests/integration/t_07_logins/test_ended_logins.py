"""Logins that are no longer good: whoever is in at that moment is not served on."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
from typing import Any

import pytest

PASSWORD = "correct horse battery"
CONFIGURATION = '[auth]\nplaintext = "loopback"\nscram = true'


class Sessions:
    """One logged-in session at each door where users log in."""

    def __init__(self, server: Any, user: str, password: str = PASSWORD) -> None:
        self.user = user
        self.imap = imaplib.IMAP4(server.address, 2143, timeout=30)
        self.imap.login(user, password)
        self.imap.select("INBOX")
        self.pop = poplib.POP3(server.address, 2110, timeout=30)
        self.pop.user(user)
        self.pop.pass_(password)
        self.smtp = smtplib.SMTP(server.address, 2587, timeout=30)
        self.smtp.login(user, password)

    def all_live(self) -> None:
        assert self.imap.noop()[0] == "OK"
        assert self.pop.noop() == b"+OK"
        assert self.smtp.mail(self.user)[0] == 250
        assert self.smtp.rset()[0] == 250

    def all_end(self) -> None:
        # Read, not asked: the server ends them by itself.
        line = self.imap.readline()
        assert line.startswith(b"* BYE") and b"no longer good" in line
        assert self.imap.readline() == b""
        assert self.smtp.getreply() == (421, b"4.7.0 Your login is no longer good, closing connection")
        with pytest.raises((EOFError, poplib.error_proto, OSError)):
            while self.pop._getline():
                pass


def test_who_is_in_is_out_when_the_account_is_disabled_or_its_password_changed(make_server: Any) -> None:
    names = [f"{name}@ours.test" for name in ("bob", "eve", "kim", "ann")]
    server = make_server(accounts=tuple(names), configuration=CONFIGURATION)
    bob, eve, kim, ann = (Sessions(server, name) for name in names)
    # What the server itself writes at a login (SCRAM verifiers here) is no change of a password.
    accounts = server.state / "accounts"
    server.wait(lambda: accounts.read_text().count("{SCRAM-SHA-256}") == 4, "verifiers of all four")
    for sessions in (bob, eve, kim, ann):
        sessions.all_live()
    assert server.command("account", "disable", "bob@ours.test").returncode == 0
    bob.all_end()
    assert server.command("account", "passwd", "eve@ours.test", "--generate").returncode == 0
    eve.all_end()
    assert server.command("account", "remove", "kim@ours.test").returncode == 0
    kim.all_end()
    # A further password takes nothing away; removing one does.
    assert server.command("account", "password", "add", "ann@ours.test", "phone").returncode == 0
    ann.all_live()
    again = Sessions(server, "ann@ours.test")
    assert server.command("account", "password", "remove", "ann@ours.test", "phone").returncode == 0
    again.all_end()
