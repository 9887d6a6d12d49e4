"""OAUTHBEARER and XOAUTH2 against a provider that really answers over HTTPS, and one that is away."""

from __future__ import annotations

import base64
import contextlib
import imaplib
import json
import shutil
import smtplib
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY = Ed25519PrivateKey.generate()


def b64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def token(padding: int = 0, key: Ed25519PrivateKey = KEY, **claims: Any) -> str:
    said = {"iss": "https://id.ours.test", "aud": "mail", "exp": time.time() + 600, "email": "bob@ours.test"}
    said |= {"padding": "x" * padding} | claims
    parts = (json.dumps(part).encode() for part in ({"alg": "EdDSA", "kid": "k"}, said))
    signed = ".".join(map(b64, parts))
    return f"{signed}.{b64(key.sign(signed.encode()))}"


class Provider(BaseHTTPRequestHandler):
    """A key set and an introspection endpoint."""

    def do_GET(self) -> None:
        public = b64(KEY.public_key().public_bytes_raw())
        self.say({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": public}]})

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        known = self.headers["Authorization"] == "Basic " + base64.b64encode(b"mail:pass").decode()
        if not known:
            self.send_error(401)
        elif asked["token"] == ["opaque-of-bob"]:
            self.say({"active": True, "aud": "mail", "username": "bob", "exp": int(time.time()) + 60})
        else:
            self.say({"active": False})

    def say(self, what: Any) -> None:
        body = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Its address, and the authority of its certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "provider.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}", tmp_path / "provider.pem"
    server.shutdown()
    server.server_close()
    thread.join()


def configuration(check: str, trust: Path) -> str:
    return (
        f'[oauth]\nissuer = "https://id.ours.test"\naudience = ["mail"]\n{check}\ntrust = "{trust}"\n'
        'discovery = "https://id.ours.test/.well-known/openid-configuration"\n'
    )


@contextlib.contextmanager
def submission(server: Any) -> Iterator[smtplib.SMTP]:
    with smtplib.SMTP(server.address, 2587, timeout=30) as client:
        client.starttls(context=ssl.create_default_context(cafile=str(server.ca)))
        client.ehlo("client.test")
        yield client


def oauthbearer(secret: str, name: str = "bob@ours.test") -> str:
    return base64.b64encode(f"n,a={name},\1host=x\1port=587\1auth=Bearer {secret}\1\1".encode()).decode()


def test_a_token_of_the_provider_is_a_login_and_no_other(
    make_server: Any, provider: tuple[str, Path]
) -> None:
    server = make_server(
        accounts=("bob@ours.test", "eve@ours.test"),
        configuration=configuration(f'keys = "{provider[0]}/keys"', provider[1]),
    )
    with submission(server) as client:
        assert client.esmtp_features["auth"].split() == ["OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN"]
        # Longer than any command: RFC 4954 §4 lets an initial response be.
        code, words = client.docmd("AUTH OAUTHBEARER", oauthbearer(token(padding=3000)))
        assert (code, words) == (235, b"2.7.0 Authentication successful")
        client.sendmail("bob@ours.test", ["eve@ours.test"], b"From: bob@ours.test\r\n\r\nhello\r\n")
    server.wait_for_messages("eve@ours.test", 1)

    for secret, name, reason in (
        (token(exp=time.time() - 3600), "bob@ours.test", "it has ended"),
        (token(aud="calendar"), "bob@ours.test", "another audience"),
        (token(key=Ed25519PrivateKey.generate()), "bob@ours.test", "its signature is wrong"),
        (token(), "eve@ours.test", "the token is another account's"),
        (token(email="nobody@ours.test"), "bob@ours.test", "no such account"),
    ):
        with submission(server) as client:
            code, words = client.docmd("AUTH OAUTHBEARER", oauthbearer(secret, name))
            assert code == 334
            assert json.loads(base64.b64decode(words))["openid-configuration"].startswith("https://id.ours")
            assert client.docmd("AQ==") == (535, b"5.7.8 Authentication credentials invalid")
        server.wait(lambda reason=reason: reason in server.log_text(), reason)
    assert "eyJ" not in server.log_text(), "tokens must not be logged"

    with imaplib.IMAP4_SSL(
        server.address, 2993, ssl_context=ssl.create_default_context(cafile=str(server.ca)), timeout=30
    ) as imap:
        imap.authenticate("XOAUTH2", lambda _: f"user=bob\1auth=Bearer {token()}\1\1".encode())
        assert imap.select()[0] == "OK"


def test_an_opaque_token_is_asked_about(make_server: Any, provider: tuple[str, Path]) -> None:
    check = f'introspection = "{provider[0]}/i"\ncredentials = "provider"\nclaim = "username"'
    server = make_server(configuration=configuration(check, provider[1]), start=False)
    secrets = server.state / "credentials"
    secrets.write_text("provider mail pass\n")
    secrets.chmod(0o600)
    server.start()
    with submission(server) as client:
        assert client.docmd("AUTH OAUTHBEARER", oauthbearer("opaque-of-bob"))[0] == 235
    with submission(server) as client:
        assert client.docmd("AUTH OAUTHBEARER", oauthbearer("opaque-of-nobody"))[0] == 334
        assert client.docmd("AQ==")[0] == 535


def test_a_provider_that_is_away_or_not_itself_is_a_temporary_failure(
    make_server: Any, provider: tuple[str, Path]
) -> None:
    # Its certificate is not signed by the system's authorities.
    check = configuration(f'keys = "{provider[0]}/keys"', provider[1]).replace(f'trust = "{provider[1]}"', "")
    server = make_server(configuration=check)
    with submission(server) as client:
        assert client.docmd("AUTH OAUTHBEARER", oauthbearer(token()))[0] == 454
        client.login("bob@ours.test", "correct horse battery")
    assert "could not be had" in server.log_text()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('keys = "https://id.test/k"', "issuer and audience"),
        ('issuer = "x"\naudience = ["y"]', "keys or introspection"),
        ('issuer = "x"\naudience = ["y"]\nkeys = "http://id.test/k"', "without TLS"),
        (
            'issuer = "x"\naudience = ["y"]\nkeys = "https://i.test/k"\nintrospection = "https://i.test"',
            "not both",
        ),
    ],
)
def test_a_half_configured_provider_is_named_by_check(make_server: Any, table: str, words: str) -> None:
    server = make_server(configuration=f"[oauth]\n{table}\n", start=False)
    checked = server.command("check")
    assert checked.returncode == 1 and words in checked.stdout, checked.stdout


def test_curl_and_msmtp_show_tokens(make_server: Any, provider: tuple[str, Path], tmp_path: Path) -> None:
    curl, msmtp = shutil.which("curl"), shutil.which("msmtp")
    if curl is None or msmtp is None:
        pytest.skip("curl or msmtp is not installed")
    server = make_server(configuration=configuration(f'keys = "{provider[0]}/keys"', provider[1]))
    for mechanism in ("OAUTHBEARER", "XOAUTH2"):
        done = subprocess.run(
            [curl, "-sS", "--cacert", str(server.ca), "--user", "bob@ours.test", "--oauth2-bearer", token(),
             "--login-options", f"AUTH={mechanism}", f"imaps://{server.address}:2993/INBOX"],
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        done = subprocess.run(
            [msmtp, "--file=/dev/null", f"--host={server.address}", "--port=2587", "--tls=on",
             "--tls-certcheck=off", f"--auth={mechanism.lower()}", "--user=bob@ours.test",
             f"--passwordeval=echo '{token()}'", "--from=bob@ours.test", "bob@ours.test"],
            input=b"From: bob@ours.test\nSubject: hi\n\nhi\n",
            env={"HOME": str(tmp_path)}, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    server.wait_for_messages("bob@ours.test", 2)
