"""Debian's opendkim, clamd and clamav-milter, rspamd and spamd as filters of a live server."""

from __future__ import annotations

import os
import pwd
import shutil
import smtplib
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.interop

MESSAGE = (
    "From: Carole <carole@elorac.fr>\r\nTo: Bob <bob@bricoleur.com>\r\nSubject: {subject}\r\n"
    "Date: Wed, 29 Jul 2026 08:00:00 +0000\r\nMessage-ID: <1@elorac.fr>\r\n\r\n{body}\r\n"
)
#: https://www.eicar.org: a virus for tests, in two halves so that this file is none.
EICAR = r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-" + "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*" + "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Starts a filter and waits for its socket; ends it after the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(words: list[str], ready: Callable[[], object], wait: Any, **more: Any) -> None:
        log = (tmp_path / f"{Path(words[0]).name}.log").open("wb")
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, **more)
        running.append(process)

        def up() -> object:
            assert process.poll() is None, (tmp_path / f"{Path(words[0]).name}.log").read_text()
            return ready()

        wait(up, words[0])

    yield start
    for process in reversed(running):
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


def answers(path: Path) -> bool:
    """Whether somebody listens at a UNIX socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def send(server: Any, subject: str = "The shelf", body: str = "Bonjour") -> None:
    with smtplib.SMTP(server.address, 2525, timeout=60) as client:
        client.ehlo("mail.elorac.fr")
        message = MESSAGE.format(subject=subject, body=body)
        client.sendmail("carole@elorac.fr", ["bob@bricoleur.com"], message.encode())


def serve(make_server: Any, rows: str) -> Any:
    return make_server(
        hostname="mail.bricoleur.com",
        domains=("bricoleur.com",),
        accounts=("bob@bricoleur.com",),
        configuration=rows,
    )


def test_opendkim_signs_what_passes_and_our_own_verifier_agrees(
    make_server: Any, tool: Any, daemon: Any, tmp_path: Path
) -> None:
    program = tool("opendkim")
    server = serve(make_server, f'[filters.opendkim]\nkind = "milter"\naddress = "unix:{tmp_path}/od.sock"\n')
    made = server.command("dkim", "generate", "elorac.fr")
    assert made.returncode == 0, made.stderr
    key = next((server.state / "dkim" / "elorac.fr").glob("*.pem"))
    keys = sorted((server.state / "dkim" / "elorac.fr").glob("*.pem"))
    key = next(one for one in keys if len(one.read_bytes()) > 1000)  # RSA
    private = tmp_path / "rsa.pem"
    private.write_bytes(key.read_bytes())
    private.chmod(0o600)
    (tmp_path / "od.conf").write_text(
        f"Mode s\nDomain elorac.fr\nSelector {key.stem}\nKeyFile {private}\nSocket local:{tmp_path}/od.sock\n"
        f"Canonicalization relaxed/simple\nInternalHosts 127.0.0.0/8\nBackground no\nUMask 000\n"
        "RequireSafeKeys no\nOversignHeaders From\n"
    )
    sock = tmp_path / "od.sock"
    daemon([program, "-f", "-x", str(tmp_path / "od.conf")], lambda: answers(sock), server.wait)
    send(server, "Une  étagère  pliée", "Bonjour  \r\n\r\n")
    (stored,) = server.wait_for_messages("bob@bricoleur.com", 1)
    assert stored.count(b"DKIM-Signature:") == 1
    assert _verifies(stored, key) == "pass"


def _verifies(stored: bytes, key: Path) -> str:
    """What our own verifier says of a stored message, from its signature downwards."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from twisted.internet.defer import Deferred, succeed
    from twisted.internet.task import Clock

    from lorrainemail.mailauth.dkim import Verifier
    from lorrainemail.mailauth.header import Header
    from lorrainemail.mailauth.keys import SigningKey
    from lorrainemail.mailauth.memory import MemoryResolver
    from lorrainemail.ops.content import Content

    private: Any = load_pem_private_key(key.read_bytes(), None)
    signing = SigningKey("elorac.fr", key.stem, private)
    dns = MemoryResolver({signing.name: [("TXT", signing.record())]})
    content = Content(stored.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    verifier = Verifier(dns, Clock(), lambda work: succeed(work()))  # type: ignore[arg-type]
    found: list[Any] = []
    Deferred.fromCoroutine(verifier.verify(content, Header(content))).addBoth(found.append)
    return str(found[0][0].result) + (found[0][0].reason and f" ({found[0][0].reason})")


@pytest.fixture
def clamd(tool: Any, daemon: Any, tmp_path: Path) -> Callable[[Any], Path]:
    """A clamd that knows one virus."""
    program = tool("clamd")

    def start(server: Any) -> Path:
        database = tmp_path / "clamdb"
        database.mkdir()
        import hashlib

        digest = hashlib.md5(EICAR.encode() + b"\r\n").hexdigest()
        plain = EICAR.encode().hex()
        (database / "test.ndb").write_text(f"Eicar-Test:0:*:{plain}\n")
        (database / "test.hdb").write_text(f"{digest}:{len(EICAR) + 2}:Eicar-Hash\n")
        sock = tmp_path / "clamd.sock"
        (tmp_path / "clamd.conf").write_text(
            f"DatabaseDirectory {database}\nLocalSocket {sock}\nForeground yes\nLocalSocketMode 666\n"
            f"User {pwd.getpwuid(os.getuid()).pw_name}\nMaxThreads 2\nStreamMaxLength 30M\n"
        )
        daemon([program, "-c", str(tmp_path / "clamd.conf")], lambda: answers(sock), server.wait)
        return sock

    return start


def test_clamd_finds_a_virus_and_the_sender_is_told_its_name(
    make_server: Any, clamd: Any, tmp_path: Path
) -> None:
    server = serve(make_server, f'[filters.virus]\nkind = "clamav"\naddress = "unix:{tmp_path}/clamd.sock"\n')
    clamd(server)
    send(server)
    with pytest.raises(smtplib.SMTPDataError, match=r"5\.7\.1 The message contains Eicar"):
        send(server, body=EICAR)
    assert len(server.wait_for_messages("bob@bricoleur.com", 1)) == 1


def test_clamav_milter_refuses_a_virus_and_marks_what_is_clean(
    make_server: Any, tool: Any, clamd: Any, daemon: Any, tmp_path: Path
) -> None:
    program = tool("clamav-milter")
    server = serve(make_server, f'[filters.cm]\nkind = "milter"\naddress = "unix:{tmp_path}/cm.sock"\n')
    scanner = clamd(server)
    (tmp_path / "cm.conf").write_text(
        f"MilterSocket unix:{tmp_path}/cm.sock\nMilterSocketMode 666\nClamdSocket unix:{scanner}\n"
        f"Foreground yes\nUser {pwd.getpwuid(os.getuid()).pw_name}\nOnInfected Reject\nAddHeader Replace\n"
        f'RejectMsg "Virus %v"\nTemporaryDirectory {tmp_path}\n'
    )
    daemon([program, "-c", str(tmp_path / "cm.conf")], lambda: answers(tmp_path / "cm.sock"), server.wait)
    send(server)
    (stored,) = server.wait_for_messages("bob@bricoleur.com", 1)
    assert b"X-Virus-Status: Clean" in stored
    with pytest.raises(smtplib.SMTPDataError, match="Virus Eicar"):
        send(server, body=EICAR)


def test_spamd_puts_the_test_spam_into_junk(make_server: Any, tool: Any, daemon: Any, tmp_path: Path) -> None:
    program = tool("spamd")
    sock = tmp_path / "spamd.sock"
    server = serve(make_server, f'[filters.spam]\nkind = "spamd"\naddress = "unix:{sock}"\ntimeout = "60s"\n')
    words = [program, f"--socketpath={sock}", "--socketmode=0666", "-x", "-L", "-m", "1", "--min-children=1"]
    words += ["--min-spare=1", "--max-spare=1", f"--pidfile={tmp_path}/spamd.pid"]
    if os.getuid() == 0:
        words += ["-u", "nobody"]
    daemon(words, lambda: answers(sock), server.wait)
    send(server)
    server.wait_for_messages("bob@bricoleur.com", 1)
    send(server, body=GTUBE)
    junk = server.maildir("bob@bricoleur.com") / ".Junk" / "new"
    server.wait(lambda: list(junk.glob("*")), "the spam in Junk")
    (stored,) = [file.read_bytes() for file in junk.glob("*")]
    assert b"X-Lorrainemail-Policy: junk spam (score 1" in stored and b"GTUBE" in stored


def test_rspamd_refuses_the_test_spam(make_server: Any, tool: Any, daemon: Any, tmp_path: Path) -> None:
    program = tool("rspamd")
    server = serve(make_server, "")
    port = 11333
    etc = tmp_path / "rspamd"
    etc.mkdir()
    shutil.copytree("/etc/rspamd", etc, dirs_exist_ok=True)
    local = etc / "local.d"
    local.mkdir(exist_ok=True)
    (etc / "test.conf").write_text(
        f'options {{ pidfile = "{tmp_path}/rspamd.pid"; dns {{ nameserver = ["{server.address}:5"]; '
        'timeout = 0.1s; retransmits = 0; } filters = ""; }\n'
        f'logging {{ type = "console"; level = "notice"; }}\n'
        'actions { reject = 15; add_header = 6; }\nmetric { name = "default"; }\n'
        f'worker "normal" {{ bind_socket = "{server.address}:{port}"; count = 1; }}\n'
    )
    words = [program, "-f", "-c", str(etc / "test.conf"), "-u", "nobody", "-g", "nogroup", "--var=DBDIR=/tmp"]
    if os.getuid():
        words = words[:4]
    else:
        words.append("-i")
    text = server.configuration.read_text()
    row = f'\n[filters.spam]\nkind = "rspamd"\naddress = "tcp:{server.address}:{port}"\nfail = "closed"\n'
    server.configuration.write_text(text + row)
    assert server.command("reload").returncode == 0

    def up() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((server.address, port)) == 0

    daemon(words, up, server.wait)
    send(server)
    server.wait_for_messages("bob@bricoleur.com", 1)
    with pytest.raises(smtplib.SMTPDataError, match="Gtube pattern"):
        send(server, body=GTUBE)
