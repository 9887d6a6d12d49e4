"""Foreign clients log in by the mechanisms that are not passwords in disguise."""

from __future__ import annotations

import imaplib
import os
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

pytestmark = pytest.mark.interop

PASSWORD = "correct horse battery"
MESSAGE = b"From: bob@ours.test\nTo: bob@ours.test\nSubject: hi\n\nhi\n"
Tool = Callable[[str], str]


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, **options)
    assert done.returncode == 0, f"{command[0]}: {done.returncode}\n{done.stdout!r}\n{done.stderr!r}"
    return done


@pytest.fixture
def scram_server(make_server: Any) -> Any:
    server = make_server(accounts=(), configuration="[auth]\nscram = true\n")
    added = server.command("account", "add", "bob@ours.test", "--password-stdin", input=PASSWORD + "\n")
    assert added.returncode == 0, added.stderr
    return server


def test_msmtp_and_mpop_log_in_by_scram(scram_server: Any, tool: Tool, tmp_path: Path) -> None:
    server = scram_server
    common = ["--auth=scram-sha-256", "--user=bob@ours.test", f"--passwordeval=echo '{PASSWORD}'", "--tls=on"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    run(
        [
            tool("msmtp"),
            *("--file=/dev/null", f"--host={server.address}", "--port=2587", "--tls-certcheck=off"),
            *common,
            *("--from=bob@ours.test", "bob@ours.test"),
        ],
        input=MESSAGE,
        env=environment,
    )
    server.wait_for_messages("bob@ours.test", 1)
    assert "by SCRAM-SHA-256" in server.log_text()
    run(
        [
            tool("mpop"),
            *("--file=/dev/null", f"--host={server.address}", "--port=2995", "--tls-certcheck=off"),
            *common,
            *("--tls-starttls=off", f"--delivery=mbox,{tmp_path}/mbox", f"--uidls-file={tmp_path}/uidls"),
        ],
        env=environment,
    )
    assert b"Subject: hi" in (tmp_path / "mbox").read_bytes()
    assert "at pop3s from" in server.log_text()


def gsasl(server: Any, tool: Tool, *words: str) -> str:
    """GNU SASL's own client against the imap door; what it and the server said."""
    done = subprocess.run(
        [
            tool("gsasl"),
            *("--imap", "--connect", f"{server.address}:2143", "--starttls"),
            *(f"--x509-ca-file={server.ca}", "--authentication-id=bob@ours.test", f"--password={PASSWORD}"),
            *words,
        ],
        capture_output=True,
        timeout=60,
        check=False,
        input=b"",
    )
    return (done.stdout + done.stderr).decode(errors="replace")


@pytest.mark.parametrize("priority", ["NORMAL:-VERS-ALL:+VERS-TLS1.2", "NORMAL:-VERS-ALL:+VERS-TLS1.3"])
def test_gnu_sasl_binds_its_login_to_the_tls_channel(scram_server: Any, tool: Tool, priority: str) -> None:
    said = gsasl(scram_server, tool, "--mechanism=SCRAM-SHA-256-PLUS", f"--priority={priority}")
    assert "Client authentication finished (server trusted)" in said, said
    assert "by SCRAM-SHA-256-PLUS" in scram_server.log_text()


def test_mbsync_takes_scram_by_cyrus_sasl(scram_server: Any, tool: Tool, tmp_path: Path) -> None:
    server = scram_server
    (tmp_path / "rc").write_text(
        f'IMAPAccount a\nHost {server.address}\nPort 2993\nUser bob@ours.test\nPass "{PASSWORD}"\n'
        f"SSLType IMAPS\nCertificateFile {server.state}/tls/self-signed.pem\nAuthMechs SCRAM-SHA-256\n\n"
        f"IMAPStore r\nAccount a\n\nMaildirStore l\nPath {tmp_path}/m/\nInbox {tmp_path}/m/INBOX\n\n"
        "Channel c\nFar :r:\nNear :l:\nCreate Near\nSyncState *\n"
    )
    (tmp_path / "m").mkdir()
    done = subprocess.run(
        [tool("mbsync"), "-c", str(tmp_path / "rc"), "c"], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "by SCRAM-SHA-256" in server.log_text()


def test_msmtp_logs_in_by_its_certificate(make_server: Any, tool: Tool, tmp_path: Path) -> None:
    server = make_server(configuration='[auth]\nclient_ca = "users.pem"\n', start=False)
    authority = trustme.CA()
    issued = authority.issue_cert("bob@ours.test")
    (server.state / "users.pem").write_bytes(authority.cert_pem.bytes())
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "bob.pem")
    server.start()
    run(
        [
            tool("msmtp"),
            *("--file=/dev/null", f"--host={server.address}", "--port=2587", "--tls-certcheck=off"),
            *("--auth=external", "--user=bob@ours.test", "--tls=on", f"--tls-cert-file={tmp_path}/bob.pem"),
            *(f"--tls-key-file={tmp_path}/bob.pem", "--from=bob@ours.test", "bob@ours.test"),
        ],
        input=MESSAGE,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    server.wait_for_messages("bob@ours.test", 1)
    assert "by EXTERNAL" in server.log_text()


def test_passwords_hashed_by_dovecot_open_the_door_and_become_ours(make_server: Any, tool: Tool) -> None:
    doveadm = tool("doveadm")
    schemes = (
        *("SSHA", "SSHA256", "SSHA512", "SMD5", "SHA", "SHA512", "PLAIN-MD5", "LDAP-MD5", "PBKDF2", "PLAIN"),
        *("MD5-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT", "BLF-CRYPT", "CRYPT", "ARGON2I", "SSHA512.HEX"),
        "SCRAM-SHA-256",
    )
    accounts = []
    for number, scheme in enumerate(schemes):
        made = run([doveadm, "pw", "-s", scheme, "-p", PASSWORD]).stdout.decode().strip()
        accounts.append(f"user{number}@ours.test:{made}::::::\n")
    server = make_server(accounts=(), start=False)
    table = server.state / "accounts"
    table.write_text("".join(accounts))
    table.chmod(0o600)
    server.start()
    assert "cannot be checked" not in server.command("check").stdout
    context = ssl.create_default_context(cafile=str(server.ca))
    for number, scheme in enumerate(schemes):
        with imaplib.IMAP4_SSL(server.address, 2993, ssl_context=context, timeout=30) as client:
            assert client.login(f"user{number}@ours.test", PASSWORD)[0] == "OK", scheme
    server.wait(lambda: table.read_text().count("{ARGON2ID}") == len(schemes), "all hashes to be ours")
    with imaplib.IMAP4_SSL(server.address, 2993, ssl_context=context, timeout=30) as client:
        assert client.login("user0@ours.test", PASSWORD)[0] == "OK"
