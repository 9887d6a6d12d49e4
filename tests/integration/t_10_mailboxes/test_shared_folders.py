"""One account opens a folder to another: a whole server, two clients."""

from __future__ import annotations

import imaplib
from typing import Any

PATIENCE = 30.0
PASSWORD = "correct horse battery"
imaplib.Commands.update({name: ("AUTH", "SELECTED") for name in ("MYRIGHTS", "SETACL")})


def client(server: Any, user: str) -> imaplib.IMAP4:
    session = imaplib.IMAP4(server.address, 2143, timeout=PATIENCE)
    session.login(user, PASSWORD)
    return session


def test_a_shared_folder_is_used_by_both(make_server: Any) -> None:
    server = make_server(
        accounts=("bob@ours.test", "tom@ours.test"), configuration='[auth]\nplaintext = "loopback"\n'
    )
    name = "user/bob@ours.test/Work"
    with client(server, "bob@ours.test") as bob, client(server, "tom@ours.test") as tom:
        assert "ACL" in bob.capabilities or b"ACL" in bob.capability()[1][0]
        assert bob.create("Work")[0] == "OK"
        bob.append("Work", None, None, b"Subject: paint\r\n\r\nblue\r\n")
        assert tom.select(name)[0] == "NO"
        assert bob.setacl("Work", "tom@ours.test", "lrs")[0] == "OK"
        assert any(name.encode() in line for line in tom.list()[1])
        status, answer = tom.select(name)
        assert status == "OK" and answer == [b"1"]
        assert tom.fetch("1", "(BODY.PEEK[TEXT])")[1][0][1] == b"blue\r\n"
        assert tom.search(None, "SUBJECT", "paint")[1] == [b"1"]
        assert tom.store("1", "+FLAGS", "(\\Seen)")[0] == "OK"
        status, answer = tom.store("1", "+FLAGS", "(\\Flagged)")
        assert status == "NO" and b"[NOPERM]" in answer[0]
        assert tom.copy("1", "INBOX")[0] == "OK"
        assert bob.select("Work")[0] == "OK"
        assert b"\\Seen" in bob.fetch("1", "(FLAGS)")[1][0]
