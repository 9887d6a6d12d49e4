"""What users do by IMAP makes scripts run: the operator's for Junk, their own by an annotation."""

from __future__ import annotations

import imaplib
import re
import ssl
from typing import Any

import pytest

PASSWORD = "correct horse battery"
MESSAGE = b"From: a@x.test\r\nTo: bob@ours.test\r\nSubject: %b\r\n\r\nbody\r\n"

LEARN = """require ["copy", "environment", "imapsieve"];
if allof (environment "imap.mailbox" "%s", environment "vnd.lorrainemail.source" "%s",
          environment "imap.user" "bob@ours.test", environment "location" "MS") {
    redirect :copy "%s@ours.test";
}
"""


@pytest.fixture
def session(request: pytest.FixtureRequest, make_server: Any) -> Any:
    server = make_server(
        accounts=("bob@ours.test", "spam@ours.test", "ham@ours.test"),
        configuration='[mailbox_scripts]\n"into Junk" = "spam"\n"out of \\\\Junk" = "ham"\n',
        start=False,
    )
    (server.state / "sieve").mkdir()
    (server.state / "sieve" / "spam.sieve").write_text(LEARN % ("Junk", "INBOX", "spam"))
    (server.state / "sieve" / "ham.sieve").write_text(LEARN % ("Archive", "Junk", "ham"))
    server.start()
    context = ssl.create_default_context(cafile=str(server.ca))
    context.check_hostname = False
    imap = imaplib.IMAP4_SSL(server.address, 2993, ssl_context=context, timeout=20)
    imap.login("bob@ours.test", PASSWORD)
    yield server, imap
    imap.logout()


def put(imap: Any, folder: str, subject: bytes) -> None:
    assert imap.append(folder, None, None, MESSAGE % subject)[0] == "OK"


def test_moving_into_junk_and_out_of_it_runs_the_operators_script(session: Any) -> None:
    server, imap = session
    imap.create("Archive")
    put(imap, "INBOX", b"spam")
    put(imap, "Archive", b"other")
    imap.select("INBOX")
    assert imap.uid("MOVE", "1", "Junk")[0] == "OK"
    [learnt] = server.wait_for_messages("spam@ours.test", 1)
    assert b"Subject: spam" in learnt
    imap.select("Junk")
    assert imap.copy("1", "Archive")[0] == "OK"
    [learnt] = server.wait_for_messages("ham@ours.test", 1)
    assert b"Subject: spam" in learnt
    # What the user has is as it was, and nothing that has nothing to do with Junk taught anything.
    imap.select("Archive")
    for number in ("1", "2"):
        assert b"Deleted" not in imap.fetch(number, "(FLAGS)")[1][0]
    assert imap.copy("1", "INBOX")[0] == "OK"
    imap.select("INBOX")
    assert len(imap.search(None, "ALL")[1][0].split()) == 1
    assert len(server.messages("spam@ours.test")) == 1


def test_a_users_own_script_sorts_what_he_stores_and_flags(session: Any) -> None:
    server, imap = session
    _, capabilities = imap.capability()
    assert f"IMAPSIEVE=sieve://{server.hostname}".encode() in capabilities[0]
    script = server.directory / "tidy.sieve"
    script.write_text(
        'require ["environment", "imap4flags", "imapsieve", "fileinto", "mailbox"];\n'
        'if environment :is "imap.cause" "APPEND" { addflag "appended"; }\n'
        'elsif allof (environment :contains "imap.changedflags" "\\\\Flagged", hasflag "\\\\Flagged")\n'
        '{ fileinto :create "Starred"; }\n'
    )
    put_done = server.command("sieve", "put", "bob@ours.test", str(script))
    assert put_done.returncode == 0, put_done.stderr
    imap.create("Notes")
    noted = imap.xatom("SETMETADATA", 'Notes (/shared/imapsieve/script "tidy")')
    assert noted[0] == "OK", noted
    put(imap, "Notes", b"one")
    put(imap, "INBOX", b"not here")
    imap.select("Notes")
    server.wait(lambda: b"appended" in imap.fetch("1", "(FLAGS)")[1][0], "the script's flag")
    assert imap.store("1", "+FLAGS", "(\\Flagged)")[0] == "OK"
    server.wait(lambda: imap.status("Starred", "(MESSAGES)")[0] == "OK", "the folder that the script makes")
    server.wait(
        lambda: re.search(rb"MESSAGES 1\b", imap.status("Starred", "(MESSAGES)")[1][0]), "its message"
    )
    server.wait(lambda: b"\\Deleted" in imap.fetch("1", "(FLAGS)")[1][0], "the mark on the original")
    # The mark that the script made is no event: it filed one copy, not two.
    assert re.search(rb"MESSAGES 1\b", imap.status("Starred", "(MESSAGES)")[1][0])
    imap.select("INBOX")
    assert b"appended" not in imap.fetch("1", "(FLAGS)")[1][0]
