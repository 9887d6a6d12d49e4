"""sendmail, mailq and newaliases, as programs of other people call them, against a scripted server."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lorrainemail.cli import handover, sendmail
from lorrainemail.cli.handover import Draft, HandoverError
from lorrainemail.cli.sendmail import Options

PATIENCE = 20.0


class Server:
    """Says yes to everything on ``submit.sock``, but for what ``refusals`` says of a command."""

    def __init__(self, state: Path) -> None:
        self.refusals: dict[str, str] = {}
        self.commands: list[str] = []
        self.data = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(state / "submit.sock"))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(PATIENCE)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                try:
                    self._session(stream)
                except OSError:
                    pass

    def _session(self, stream: Any) -> None:
        def say(text: str) -> None:
            stream.write(text.encode() + b"\r\n")
            stream.flush()

        say("220 mail.bricoleur.com ESMTP")
        while line := stream.readline():
            command = line.decode().rstrip("\r\n")
            self.commands.append(command)
            refusal = next((r for start, r in self.refusals.items() if command.startswith(start)), None)
            if refusal:
                say(refusal)
            elif command.startswith("EHLO"):
                say("250-mail.bricoleur.com\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250 SMTPUTF8")
            elif command == "DATA":
                say("354 go on")
                self.data = b""
                while (line := stream.readline()) not in (b".\r\n", b""):
                    self.data += line[1:] if line.startswith(b".") else line
                say(self.refusals.get("dot", "250 2.0.0 Kept"))
            elif command == "QUIT":
                say("221 2.0.0 Goodbye")
                return
            else:
                say("250 2.0.0 OK")

    def starting(self, start: str) -> list[str]:
        return [command for command in self.commands if command.startswith(start)]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "lorrainemail.toml").write_text(
        'hostname = "mail.bricoleur.com"\nlocal_domains = ["bricoleur.com"]\n'
    )
    return tmp_path


@pytest.fixture
def server(state: Path) -> Iterator[Server]:
    server = Server(state)
    yield server
    server.close()


class Run:
    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        self.state = state
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(
        self, *words: str, stdin: bytes = b"Subject: x\n\nhello\n", run: Any = sendmail.main
    ) -> tuple[int, str, str]:
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = run(["--state", str(self.state), *words])
        out, err = self._capsys.readouterr()
        return status, out, err


@pytest.fixture
def run(state: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Run:
    return Run(state, monkeypatch, capsys)


def test_a_message_for_named_recipients_arrives_complete(run: Run, server: Server) -> None:
    status, out, err = run(
        "-i",
        "-f",
        "carole@elorac.fr",
        "bob@bricoleur.com",
        "<joe@x.org>",
        stdin=b"Subject: x\n\n.\n..two\nend",
    )
    assert (status, out, err) == (0, "", "")
    assert server.starting("MAIL")[0].startswith("MAIL FROM:<carole@elorac.fr> SIZE=")
    assert server.starting("RCPT") == ["RCPT TO:<bob@bricoleur.com>", "RCPT TO:<joe@x.org>"]
    header, _, body = server.data.partition(b"\r\n\r\n")
    assert body == b".\r\n..two\r\nend\r\n"
    names = [line.partition(b":")[0] for line in header.split(b"\r\n")]
    assert names == [b"Date", b"Message-ID", b"From", b"Subject"]
    assert b"From: carole@elorac.fr" in header
    assert re.search(
        rb"Date: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d+ [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", header
    )


def test_without_i_a_lone_dot_ends_the_message(run: Run, server: Server) -> None:
    run("bob@bricoleur.com", stdin=b"Subject: x\n\none\n.\ntwo\n")
    assert server.data.endswith(b"\r\n\r\none\r\n")
    run("-oi", "bob@bricoleur.com", stdin=b"Subject: x\n\none\n.\ntwo\n")
    assert server.data.endswith(b"\r\n\r\none\r\n.\r\ntwo\r\n")


def test_t_takes_the_recipients_of_the_header_and_bcc_stays_secret(run: Run, server: Server) -> None:
    message = b"""From: Carole <carole@elorac.fr>
To: "Bob, the builder" <bob@bricoleur.com>,
  friends: joe@x.org, "a b"@x.org;
Cc: (a comment) bob@bricoleur.com
Bcc: secret@x.org,
 other@x.org
Date: Thu, 1 Jan 2026 00:00:00 +0000
Message-ID: <1@x>

body
"""
    status, _, _ = run("-t", "-i", stdin=message)
    assert status == 0
    assert server.starting("RCPT") == [
        f"RCPT TO:<{a}>"
        for a in ("bob@bricoleur.com", "joe@x.org", '"a b"@x.org', "secret@x.org", "other@x.org")
    ]
    assert b"secret" not in server.data and b"other@" not in server.data
    assert server.data.count(b"Date:") == 1 and b"friends" in server.data


def test_resent_fields_win_over_the_first_ones(run: Run, server: Server) -> None:
    run("-t", stdin=b"To: bob@x.org\nResent-To: joe@x.org\nResent-Bcc: sue@x.org\n\nx\n")
    assert server.starting("RCPT") == ["RCPT TO:<joe@x.org>", "RCPT TO:<sue@x.org>"]
    assert b"sue" not in server.data


def test_cron_writes_to_a_bare_name(run: Run, server: Server) -> None:
    status, _, _ = run(
        "-FCronDaemon",
        "-i",
        "-odi",
        "-oem",
        "-oi",
        "-t",
        "-f",
        "root",
        stdin=b'From: "(Cron Daemon)" <root>\nTo: bob\n\nx\n',
    )
    assert status == 0
    assert server.starting("MAIL")[0].startswith("MAIL FROM:<root@bricoleur.com>")
    assert server.starting("RCPT") == ["RCPT TO:<bob@bricoleur.com>"]


def test_the_sender_is_the_user_where_none_is_given_and_F_names_him(run: Run, server: Server) -> None:
    run("-F", 'Bob "B" Builder', "bob")
    user = sendmail._user()
    assert server.starting("MAIL")[0].startswith(f"MAIL FROM:<{user}@bricoleur.com>")
    assert f'From: "Bob \\"B\\" Builder" <{user}@bricoleur.com>'.encode() in server.data


def test_the_null_sender_can_be_given(run: Run, server: Server) -> None:
    run("-f", "<>", "bob@bricoleur.com")
    run("-f", "", "bob@bricoleur.com")
    assert [command.split()[1] for command in server.starting("MAIL")] == ["FROM:<>", "FROM:<>"]


def test_eight_bit_and_utf8_are_declared(run: Run, server: Server) -> None:
    run("bob@bricoleur.com", stdin="Subject: x\n\ncafé\n".encode())
    run("bob@bricoleur.com", stdin="Subject: café\n\nx\n".encode())
    first, second = server.starting("MAIL")
    assert "BODY=8BITMIME" in first and "SMTPUTF8" not in first
    assert "BODY=8BITMIME SMTPUTF8" in second


def test_a_message_without_header_keeps_its_first_line(run: Run, server: Server) -> None:
    run("bob", stdin=b"hello there\nsecond\n")
    assert server.data.endswith(b"\r\n\r\nhello there\r\nsecond\r\n")
    run("bob", stdin=b"")
    assert server.data.startswith(b"Date: ")


def test_an_mbox_envelope_line_is_dropped(run: Run, server: Server) -> None:
    run("bob", stdin=b"From carole Thu Jan  1 00:00:00 2026\nSubject: x\n\nFrom here on\n")
    assert b"From carole" not in server.data and server.data.endswith(b"\r\n\r\nFrom here on\r\n")


@pytest.mark.parametrize(
    ("command", "reply", "status"),
    [
        ("RCPT TO:<gone", "550 5.1.1 No such user here", 67),
        ("RCPT TO:<gone", "550 5.7.1 Relaying denied", 77),
        ("RCPT TO:<gone", "451 4.3.0 Later", 75),
        ("MAIL", "552 5.3.4 Too large", 65),
        ("MAIL", "452 4.3.1 Full", 75),
        ("dot", "550 5.6.0 Bare CR", 65),
        ("dot", "554 5.0.0 No", 69),
        ("EHLO", "421 4.3.2 Stopping", 75),
    ],
)
def test_a_refusal_is_told_with_its_status_and_nothing_is_sent(
    run: Run, server: Server, command: str, reply: str, status: int
) -> None:
    server.refusals[command] = reply
    got, out, err = run("bob@bricoleur.com", "gone@bricoleur.com")
    assert (got, out) == (status, "")
    assert reply in err and err.startswith("sendmail: ") and err.count("\n") == 1
    if command.startswith("RCPT"):
        assert "gone@bricoleur.com" in err and "DATA" not in server.commands


def test_no_server_is_75_with_a_clear_word(run: Run) -> None:
    for words in (("bob",), ("-bs",)):
        status, _, err = run(*words)
        assert status == 75 and "no mail server runs" in err
    (run.state / "submit.sock").touch()
    assert run("bob")[0] == 75


@pytest.mark.parametrize("words", [(), ("-t",), ("-Z", "bob"), ("-f",), ("-bd",), ("-bt",)])
def test_wrong_usage_is_64(run: Run, server: Server, words: tuple[str, ...]) -> None:
    status, _, err = run(*words)
    assert status == 64 and err.startswith("sendmail: ")


def test_control_characters_in_an_address_never_become_commands(run: Run, server: Server) -> None:
    status, _, _ = run("bob@x.org>\r\nRCPT TO:<sue@x.org")
    assert status == 65 and not server.starting("RCPT")


def test_old_options_are_taken() -> None:
    words = "-odb -oem -oi -os -om -B 8BITMIME -N never -R hdrs -V id -G -U -n -v -X log -d0.1 -q -h 3 -- -t"
    options = Options(words.split())
    assert options.ignore_dots and options.verbose and options.flush_queue
    assert options.recipients == ["-t"] and not options.from_header
    assert Options(["-tifbob@x.org"]).sender == "bob@x.org"
    assert Options(["-r", "bob@x.org"]).sender == "bob@x.org"


def test_flushing_the_queue_is_done_by_the_server(run: Run) -> None:
    assert run("-q") == (0, "", "")
    assert run("-q15m") == (0, "", "")


def test_newaliases_says_whether_the_server_can_read_them(run: Run) -> None:
    assert run(run=sendmail.newaliases)[0] == 0
    (run.state / "aliases").write_text("root: bob@bricoleur.com\n")
    status, out, _ = run("-bi")
    assert status == 0 and "1 alias" in out
    (run.state / "aliases").write_text("no colon here\n")
    status, _, err = run(run=sendmail.newaliases)
    assert status == 65 and "aliases:1" in err


def test_a_very_long_line_and_every_line_end_come_through() -> None:
    long = b"." + b"x" * (3 * handover.CHUNK)
    source = b"A: b\r\n\r\n" + long + b"\r\n.y\n" + b"z" * (handover.CHUNK - 1) + b"\r\nlast"
    draft = Draft(io.BytesIO(source), dot_ends=True)
    wire = b"".join(draft.chunks())
    expected = b"A: b\r\n\r\n." + long + b"\r\n..y\r\n" + b"z" * (handover.CHUNK - 1) + b"\r\nlast\r\n.\r\n"
    assert wire == expected


def test_an_endless_header_is_refused() -> None:
    with pytest.raises(HandoverError):
        Draft(io.BytesIO(b"To: " + b"a@b.c,\n " * handover.MAX_HEADER), dot_ends=False)


def test_bs_is_a_pipe_to_the_server(state: Path, server: Server) -> None:
    for script in (b"EHLO x\r\nNOOP\r\nQUIT\r\n", b"EHLO x\r\nNOOP\r\n"):
        done = subprocess.run(
            [sys.executable, "-m", "lorrainemail.cli.sendmail", "--state", str(state), "-bs"],
            input=script,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        replies = [line[:3] for line in done.stdout.splitlines()]
        assert done.returncode == 0 and replies == [b"220"] + [b"250"] * 5 + [b"221"], done


def test_it_starts_without_the_heavy_half_of_the_house() -> None:
    code = "import sys, lorrainemail.cli.sendmail; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    loaded = set(out.stdout.split())
    assert not loaded & {"twisted", "cattrs", "argon2", "dns", "email", "asyncio", "smtplib"}
    assert os.path.basename(sendmail.__file__) == "sendmail.py"
