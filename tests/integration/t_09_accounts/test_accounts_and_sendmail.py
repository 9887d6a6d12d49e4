"""Accounts changed under a running server, and mail handed over by sendmail: real processes throughout."""

from __future__ import annotations

import json
import poplib
import subprocess
import sys
from typing import Any

PATIENCE = 30.0


def pop3s(server: Any, user: str, password: str) -> poplib.POP3_SSL:
    import ssl

    context = ssl.create_default_context(cafile=str(server.ca))
    context.check_hostname = False
    client = poplib.POP3_SSL(server.address, 2995, timeout=PATIENCE, context=context)
    client.user(user)
    client.pass_(password)
    return client


def may_log_in(server: Any, user: str, password: str) -> bool:
    try:
        pop3s(server, user, password).quit()
    except poplib.error_proto as error:
        assert b"[AUTH]" in error.args[0], error
        return False
    return True


def sendmail(server: Any, *words: str, message: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "lorrainemail.cli.sendmail", "--state", str(server.state), *words],
        input=message,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


def test_account_commands_take_hold_of_a_running_server(make_server: Any) -> None:
    server = make_server()
    assert not may_log_in(server, "eve@ours.test", "one two")
    done = server.command("account", "add", "eve@ours.test", "--password-stdin", input="one two\n")
    assert done.returncode == 0, done.stderr
    server.wait(lambda: may_log_in(server, "eve@ours.test", "one two"), "the new account's login")
    assert may_log_in(server, "eve", "one two")

    done = server.command("account", "passwd", "eve@ours.test", "--generate", "--json")
    password = json.loads(done.stdout)["password"]
    server.wait(lambda: may_log_in(server, "eve@ours.test", password), "the new password")
    assert not may_log_in(server, "eve@ours.test", "one two")

    assert server.command("account", "disable", "eve@ours.test").returncode == 0
    server.wait(lambda: not may_log_in(server, "eve@ours.test", password), "the account to be shut out")
    assert server.command("account", "enable", "eve@ours.test").returncode == 0
    server.wait(lambda: may_log_in(server, "eve@ours.test", password), "the account to be let in")
    listed = json.loads(server.command("account", "list", "--json").stdout)["accounts"]
    assert [account["address"] for account in listed] == ["bob@ours.test", "eve@ours.test"]

    assert server.command("account", "remove", "eve@ours.test").returncode == 0
    server.wait(lambda: not may_log_in(server, "eve@ours.test", password), "the account to be gone")
    assert "one two" not in server.log_text() and password not in server.log_text()


def test_sendmail_is_durable_when_it_exits_with_0(make_server: Any) -> None:
    server = make_server()
    message = b"To: bob@ours.test\nBcc: bob+x@ours.test\nSubject: cron\n\n.\n.dots\nend"
    done = sendmail(server, "-t", "-i", "-f", "cron@ours.test", message=message)
    assert (done.returncode, done.stderr) == (0, b"")
    stored = server.messages("bob@ours.test")
    assert stored and stored[0].endswith(b"\n\n.\n.dots\nend\n")
    assert b"Return-Path: <cron@ours.test>" in stored[0] and b"Bcc" not in stored[0]
    refused = sendmail(server, "bob@ours.test", "nobody@ours.test", message=b"Subject: x\n\nx\n")
    assert refused.returncode == 67 and b"nobody@ours.test" in refused.stderr
    assert len(server.messages("bob@ours.test")) == len(stored)


def test_sendmail_without_a_server_says_try_again(make_server: Any) -> None:
    server = make_server()
    server.stop()
    done = sendmail(server, "bob@ours.test", message=b"Subject: x\n\nx\n")
    assert done.returncode == 75 and b"no mail server runs" in done.stderr
    assert server.messages("bob@ours.test") == []
