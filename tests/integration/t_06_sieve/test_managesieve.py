"""Filter scripts by ManageSieve on a running server, and the mail that goes through them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import smtplib
import socket
import ssl
from typing import Any

PASSWORD = "correct horse battery"


class Client:
    """A client that says words and reads answers up to OK, NO or BYE."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.socket: socket.socket = socket.create_connection((server.address, 2419), timeout=20)
        self.file = self.socket.makefile("rb")

    def answer(self) -> tuple[str, list[bytes]]:
        """The word of the answer with all its lines; literals are lines of their own."""
        lines: list[bytes] = []
        while True:
            line = self.file.readline()
            assert line, lines
            line = line.rstrip(b"\r\n")
            lines.append(line)
            if line.endswith(b"}") and b"{" in line:
                size = int(line[line.rindex(b"{") + 1 : -1])
                lines.append(self.file.read(size))
                self.file.readline()
            word = line.split(b" ", 1)[0]
            if word in (b"OK", b"NO", b"BYE"):
                return word.decode(), lines

    def say(self, octets: bytes) -> tuple[str, list[bytes]]:
        self.socket.sendall(octets + b"\r\n")
        return self.answer()

    def start_tls(self) -> list[bytes]:
        assert self.say(b"STARTTLS")[0] == "OK"
        context = ssl.create_default_context(cafile=str(self.server.ca))
        context.check_hostname = False
        self.socket = context.wrap_socket(self.socket)
        self.file = self.socket.makefile("rb")
        word, lines = self.answer()
        assert word == "OK"
        return lines

    def log_in(self) -> None:
        token = base64.b64encode(f"\0bob@ours.test\0{PASSWORD}".encode()).decode()
        assert self.say(f'AUTHENTICATE "PLAIN" "{token}"'.encode())[0] == "OK"

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def test_a_script_stored_by_managesieve_files_the_next_message(make_server: Any) -> None:
    server = make_server()
    client = Client(server)
    word, lines = client.answer()
    assert word == "OK"
    assert b'"SASL" ""' in lines and b'"STARTTLS"' in lines
    assert client.say(b'AUTHENTICATE "PLAIN" "AGJvYgBi"')[1] == [
        b'NO (ENCRYPT-NEEDED) "Logging in needs TLS: use STARTTLS first"'
    ]
    lines = client.start_tls()
    assert any(line.startswith(b'"SASL" "') and b"PLAIN" in line for line in lines)
    assert b'"STARTTLS"' not in lines
    client.log_in()
    script = b'require "fileinto";\r\nif header :is "subject" "a list" { fileinto "Lists"; }\r\n'
    word, lines = client.say(b'PUTSCRIPT "main" {%d+}\r\n%b' % (len(script), script))
    assert word == "OK", lines
    assert client.say(b'SETACTIVE "main"')[0] == "OK"
    assert client.say(b"LISTSCRIPTS")[1] == [b'"main" ACTIVE', b"OK"]
    assert client.say(b'GETSCRIPT "main"')[1][1] == script
    assert client.say(b'DELETESCRIPT "main"')[1] == [b'NO (ACTIVE) "the active script cannot be removed"']
    word, lines = client.say(b'PUTSCRIPT "main" "fileinto;"')
    assert word == "NO" and b"line 1, column 1" in lines[0]
    client.say(b"LOGOUT")
    client.close()

    # What the server was told to do survives a crash: it was durable before the OK.
    server.stop(9)
    server.start()
    (server.maildir("bob@ours.test") / ".Lists" / "cur").mkdir(parents=True)
    for part in ("new", "tmp"):
        (server.maildir("bob@ours.test") / ".Lists" / part).mkdir()
    with smtplib.SMTP(server.address, 2525, timeout=20) as smtp:
        smtp.sendmail("a@x.test", ["bob@ours.test"], b"Subject: a list\r\n\r\nhello\r\n")
    folder = server.maildir("bob@ours.test") / ".Lists"
    server.wait(lambda: [*(folder / "new").iterdir(), *(folder / "cur").iterdir()], "the list's message")
    assert server.messages("bob@ours.test") == []


def test_scram_tells_its_last_word_along_with_the_ok(make_server: Any) -> None:
    server = make_server(accounts=(), configuration="[auth]\nscram = true\n")
    added = server.command("account", "add", "bob@ours.test", "--password-stdin", input=PASSWORD + "\n")
    assert added.returncode == 0, added.stderr
    client = Client(server)
    client.answer()
    lines = client.start_tls()
    assert any(b"SCRAM-SHA-256" in line for line in lines)
    bare = b"n=bob@ours.test,r=fyko+d2lbbFgONRv9qkxdawL"
    first = base64.b64encode(b"n,," + bare)
    client.socket.sendall(b'AUTHENTICATE "SCRAM-SHA-256" "%b"\r\n' % first)
    challenge = base64.b64decode(client.file.readline().strip().strip(b'"'))
    parts = dict(part.split(b"=", 1) for part in challenge.split(b","))
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), base64.b64decode(parts[b"s"]), int(parts[b"i"]))
    key = hmac.digest(salted, b"Client Key", "sha256")
    without = b"c=biws,r=" + parts[b"r"]
    words = b",".join([bare, challenge, without])
    signature = hmac.digest(hashlib.sha256(key).digest(), words, "sha256")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True)))
    word, lines = client.say(b'"%b"' % base64.b64encode(without + b",p=" + proof))
    assert word == "OK", lines
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    last = b"v=" + base64.b64encode(hmac.digest(server_key, words, "sha256"))
    assert lines == [b'OK (SASL "%b") "Logged in"' % base64.b64encode(last)]
    assert client.say(b"LISTSCRIPTS")[0] == "OK"
    client.close()


def test_words_pipelined_behind_starttls_do_nothing(make_server: Any) -> None:
    server = make_server()
    client = Client(server)
    client.answer()
    client.socket.sendall(b'STARTTLS\r\nNOOP "injected"\r\n')
    assert client.answer()[0] == "OK"
    context = ssl.create_default_context(cafile=str(server.ca))
    context.check_hostname = False
    client.socket = context.wrap_socket(client.socket)
    client.file = client.socket.makefile("rb")
    assert client.answer()[0] == "OK"  # the capabilities
    assert client.say(b'NOOP "mine"')[1] == [b'OK (TAG "mine") "Nothing was done"']
    client.close()
