"""Passwords of single devices, and what the owner of an account can see of its logins."""

from __future__ import annotations

import imaplib
import json
import smtplib
import ssl
import time
from typing import Any

import pytest

PASSWORD = "correct horse battery"


def imap_login(server: Any, password: str) -> None:
    context = ssl.create_default_context(cafile=str(server.ca))
    with imaplib.IMAP4_SSL(server.address, 2993, ssl_context=context, timeout=30) as client:
        client.login("bob@ours.test", password)


def ask(server: Any, *words: str) -> Any:
    done = server.command("account", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_device_has_a_password_of_its_own_that_can_be_ended(make_server: Any) -> None:
    server = make_server()
    phone = ask(server, "password", "add", "bob@ours.test", "my phone")["password"]
    given = server.command(
        "account", "password", "add", "bob@ours.test", "laptop", "--password-stdin", input="x y z\n"
    )
    assert given.returncode == 0 and "x y z" not in given.stdout
    for password in (phone, "x y z", PASSWORD):
        imap_login(server, password)
    listed = ask(server, "password", "list", "bob@ours.test")["passwords"]
    assert [one["label"] for one in listed] == ["", "my phone", "laptop"]
    assert all(one["last_used"] > time.time() - 300 for one in listed)
    assert "my phone" in server.command("account", "password", "list", "bob@ours.test").stdout

    again = server.command("account", "password", "add", "bob@ours.test", "my phone")
    assert again.returncode == 1 and "already" in again.stderr
    assert server.command("account", "password", "remove", "bob@ours.test", "my phone").returncode == 0
    assert server.command("account", "password", "remove", "bob@ours.test", "my phone").returncode == 1
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        imap_login(server, phone)
    imap_login(server, "x y z")

    # A new password of the account ends all of them, unless they are to be kept.
    server.command(
        "account", "passwd", "bob@ours.test", "--password-stdin", "--keep-devices", input="new one\n"
    )
    imap_login(server, "x y z")
    server.command("account", "passwd", "bob@ours.test", "--password-stdin", input="newer one\n")
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        imap_login(server, "x y z")
    imap_login(server, "newer one")


def test_the_owner_sees_who_logged_in_and_who_tried_over_a_restart(make_server: Any) -> None:
    server = make_server()
    imap_login(server, PASSWORD)
    imap_login(server, PASSWORD)
    with pytest.raises(imaplib.IMAP4.error):
        imap_login(server, "not my password")
    with smtplib.SMTP(server.address, 2587, timeout=30) as client:
        client.starttls(context=ssl.create_default_context(cafile=str(server.ca)))
        client.login("bob@ours.test", PASSWORD)
    for restart in (False, True):
        if restart:
            server.stop()
        rows = ask(server, "logins", "bob@ours.test")["logins"]
        seen = {(row["good"], row["door"], row["how"]): row["count"] for row in rows}
        assert seen == {
            (True, "imaps", "LOGIN"): 2,
            (False, "imaps", "wrong password"): 1,
            (True, "submission", "PLAIN"): 1,
        }
        assert {row["peer"] for row in rows} == {"127.0.0.1"}
    shown = server.command("account", "logins", "bob@ours.test").stdout
    assert "127.0.0.1 at imaps: logged in by LOGIN (2 times since" in shown
    assert "REFUSED: wrong password" in shown and "not my password" not in shown
    assert (server.state / "logins.sqlite").stat().st_mode & 0o777 == 0o600
    server.start()
