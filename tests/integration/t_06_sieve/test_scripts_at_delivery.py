"""Scripts put in by the operator's command decide what a running server does with mail."""

from __future__ import annotations

import smtplib
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 30.0

SCRIPT = """require ["fileinto", "mailbox", "imap4flags", "reject", "vacation", "variables", "editheader",
  "copy", "duplicate"];
if header :is "x-test" "same" {
  if duplicate { discard; stop; }
}
if header :contains "subject" "spam" { discard; stop; }
if header :contains "subject" "refuse" { reject "not here, thank you"; stop; }
if header :contains "subject" "away" { vacation :days 2 "I am on holiday"; }
if header :contains "subject" "onward" { redirect "eve@ours.test"; stop; }
if header :contains "subject" "edit" { addheader "X-Edited" "yes"; }
if header :matches "subject" "[*]*" {
  set :lower "list" "${1}";
  fileinto :create :flags "\\\\Flagged" "lists/${list}";
}
"""


def send(
    server: Any, subject: str, sender: str = "eve@ours.test", to: str = "bob@ours.test", **fields: str
) -> None:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    with smtplib.SMTP(server.address, 2525, timeout=PATIENCE) as client:
        client.sendmail(
            sender,
            [to],
            f"From: {sender}\r\nTo: {to}\r\nSubject: {subject}\r\n{more}\r\nbody of {subject}\r\n",
        )


def in_folder(server: Any, address: str, folder: str) -> list[Path]:
    home = server.maildir(address)
    place = home if not folder else home / f".{folder}"
    return sorted(path for part in ("new", "cur") for path in (place / part).glob("*"))


def test_a_script_files_refuses_redirects_answers_and_edits(make_server: Any, tmp_path: Path) -> None:
    server = make_server(accounts=("bob@ours.test", "eve@ours.test"))
    bob, eve = "bob@ours.test", "eve@ours.test"
    script = tmp_path / "mine.sieve"
    script.write_text(SCRIPT)
    done = server.command("sieve", "put", bob, str(script), "--activate")
    assert done.returncode == 0, done.stderr
    assert "in use" in server.command("sieve", "list", bob).stdout

    send(server, "plain")
    assert len(server.messages(bob)) == 1
    send(server, "[Twisted] hello")
    (path,) = in_folder(server, bob, "lists.twisted")
    assert path.name.endswith(":2,F") and b"body of [Twisted] hello" in path.read_bytes()
    assert path.read_bytes().startswith(
        b"Return-Path: <eve@ours.test>\nDelivered-To: bob@ours.test\nReceived:"
    )
    send(server, "some spam")
    with pytest.raises(smtplib.SMTPDataError) as refused:
        send(server, "please refuse")
    assert refused.value.smtp_code == 550 and b"not here, thank you" in refused.value.smtp_error
    assert len(server.messages(bob)) == 1

    send(server, "edit me")
    (edited,) = [message for message in server.messages(bob) if b"edit me" in message]
    assert edited.count(b"X-Edited: yes\n") == 1 and edited.count(b"\nReceived:") == 1

    send(server, "go onward", sender="someone@elsewhere.test")
    (onward,) = server.wait_for_messages(eve, 1)
    assert onward.startswith(b"Return-Path: <someone@elsewhere.test>\n")
    assert b"Delivered-To: bob@ours.test\n" in onward
    assert not any(b"onward" in message for message in server.messages(bob))

    send(server, "are you away")
    send(server, "are you still away")
    replies = [m for m in server.wait_for_messages(eve, 2) if b"Auto-Submitted: auto-replied" in m]
    assert len(replies) == 1, "one reply to two messages"
    assert replies[0].startswith(b"Return-Path: <>\n") and b"I am on holiday" in replies[0]
    assert b"Subject: Auto: are you away\n" in replies[0]

    before = len(server.messages(bob))
    for _ in range(2):
        send(server, "twin", X_Test="same", Message_ID="<twin@elsewhere.test>")
    assert len(server.messages(bob)) == before + 1

    # The memory of replies outlives the process.
    server.stop()
    server.start()
    send(server, "away again")
    send(server, "twin", X_Test="same", Message_ID="<twin@elsewhere.test>")
    assert len(server.messages(bob)) == before + 2
    assert len([m for m in server.messages(eve) if b"auto-replied" in m]) == 1


def test_a_script_that_broke_keeps_the_mail_and_says_so(make_server: Any, tmp_path: Path) -> None:
    server = make_server()
    bob = "bob@ours.test"
    script = tmp_path / "mine.sieve"
    script.write_text('require "nonesuch";')
    done = server.command("sieve", "put", bob, str(script))
    assert done.returncode == 1 and "line 1, column 9" in done.stderr
    script.write_text("discard;")
    assert server.command("sieve", "put", bob, str(script), "--activate").returncode == 0
    stored = server.state / "mail" / "ours.test" / "bob" / "sieve" / "mine.sieve"
    send(server, "gone")
    stored.write_text("disc")
    send(server, "kept")
    (notice,) = [m for m in server.messages(bob) if b"Subject: Your filter script failed" in m]
    assert b"line 1, column 5" in notice
    (message,) = [m for m in server.messages(bob) if m != notice]
    assert b"body of kept" in message
    assert "line 1, column 5" in server.log_text()

    script.write_text("keep;\n")
    assert server.command("sieve", "put", bob, str(script)).returncode == 0
    assert server.command("sieve", "activate", bob).returncode == 0
    send(server, "no script")
    assert len(server.messages(bob)) == 3


def test_check_and_test_say_what_a_script_does(make_server: Any, tmp_path: Path) -> None:
    server = make_server(start=False)
    script, message = tmp_path / "s.sieve", tmp_path / "m.eml"
    script.write_text(SCRIPT)
    message.write_text("From: a@b.example\nTo: bob@ours.test\nSubject: [Work] x\n\nhello\n")
    assert server.command("sieve", "check", str(script)).returncode == 0
    done = server.command("sieve", "test", str(script), str(message))
    assert done.returncode == 0, done.stderr
    assert 'header :matches "subject" "[*]*": true' in done.stdout
    assert "filed into lists/work, flags \\Flagged, made where it is missing" in done.stdout


def test_an_account_that_is_kept_as_mbox_has_scripts_too(make_server: Any, tmp_path: Path) -> None:
    server = make_server(configuration='[store]\nformat = "mbox"\n')
    bob = "bob@ours.test"
    script = tmp_path / "mine.sieve"
    script.write_text(
        'require ["imap4flags", "fileinto", "mailbox"];\n'
        'if header "subject" "filed" { fileinto :create "other"; } else { addflag "\\\\Seen"; keep; }\n'
    )
    assert server.command("sieve", "put", bob, str(script), "--activate").returncode == 0
    send(server, "seen")
    send(server, "filed")
    box = (server.state / "mail" / "ours.test" / "bob" / "mbox").read_bytes()
    assert box.count(b"\nSubject: ") == 1 and b"\nSubject: seen\n" in box
    assert b"\nStatus: R" in box
    assert len(in_folder(server, bob, "other")) == 1
