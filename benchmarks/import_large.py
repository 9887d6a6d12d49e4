"""Large imports: messages a second and memory, from a Maildir or from a Dovecot by IMAP, and a kill half-way.

    python benchmarks/import_large.py maildir [--messages 200000]
    python benchmarks/import_large.py imap [--messages 20000]

Makes a Maildir of that many messages of 2 KiB in the temporary directory (with ``imap`` a Dovecot of this
machine serves it on loopback, over TLS), starts ``lorrainemail import`` without a server, kills it when half
of them are there, gives it again to its end, and once more. Goals: 512 MiB at most, none doubled.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEMORY = 512.0
BODY = "a line of a message, of the usual length, as it were\n" * 36
PATIENCE = 3600.0

DOVECOT = """base_dir = {run}
state_dir = {directory}/state
log_path = {directory}/log
protocols = imap
ssl = required
ssl_cert = <{directory}/server.pem
ssl_key = <{directory}/server.key
default_login_user = nobody
default_internal_user = nobody
default_internal_group =
mail_location = maildir:{maildir}
mail_uid = nobody
mail_gid = nogroup
first_valid_uid = 1
first_valid_gid = 0
login_trusted_networks = 127.0.0.0/8
passdb {{
  driver = static
  args = password=secret
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={directory}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    address = 127.0.0.1
    port = {port}
  }}
}}
service anvil {{
  chroot =
}}
"""


def make_maildir(path: Path, count: int) -> None:
    for sub in ("cur", "new", "tmp"):
        (path / sub).mkdir(parents=True)
    for number in range(count):
        name = f"{1_500_000_000 + number}.M{number % 10**6}P1.old:2,{'S' if number % 3 else ''}"
        header = f"From: a{number}@b.test\nTo: me@example.test\nSubject: message {number}\n"
        header += f"Message-ID: <{number}@b.test>\n"
        (path / "cur" / name).write_text(f"{header}\n{BODY}")


def start_dovecot(directory: Path, maildir: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Dovecot with an IMAP door over TLS on loopback; its certificate is for localhost."""
    import trustme

    authority = trustme.CA()
    made = authority.issue_cert("localhost")
    made.private_key_pem.write_to_path(str(directory / "server.key"))
    made.cert_chain_pems[0].write_to_path(str(directory / "server.pem"))
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    for path in (directory, *directory.parents):
        if path != Path("/") and path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o011)
    subprocess.run(["chown", "-R", "nobody:nogroup", str(maildir)], check=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    configuration = directory / "dovecot.conf"
    configuration.write_text(
        DOVECOT.format(run=directory / "run", directory=directory, maildir=maildir, port=port)
    )
    process = subprocess.Popen(["/usr/sbin/dovecot", "-F", "-c", str(configuration)])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return process, port
        time.sleep(0.05)
    raise SystemExit(f"Dovecot does not start:\n{(directory / 'log').read_text()}")


def count_in(home: Path) -> int:
    cur = home / "Maildir" / "cur"
    return len(os.listdir(cur)) if cur.is_dir() else 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("maildir", "imap"))
    parser.add_argument("--messages", type=int, default=0)
    arguments = parser.parse_args()
    count = arguments.messages or (200_000 if arguments.kind == "maildir" else 20_000)
    command = str(Path(sys.executable).parent / "lorrainemail")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        state = directory / "state"
        state.mkdir(mode=0o700)
        (state / "lorrainemail.toml").write_text(
            'hostname = "mail.example.test"\nlocal_domains = ["example.test"]\n'
        )
        subprocess.run(
            [command, "account", "--state", state, "add", "me@example.test", "--generate"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        began = time.monotonic()
        make_maildir(directory / "old", count)
        print(f"{count} messages made in {time.monotonic() - began:.0f} s", flush=True)
        dovecot = None
        words = [command, "import", "--state", str(state)]
        if arguments.kind == "maildir":
            words += ["maildir", str(directory / "old"), "me@example.test"]
        else:
            dovecot, port = start_dovecot(directory, directory / "old")
            words += ["imap", f"localhost:{port}", "me@example.test", "--password-stdin"]
            words += ["--ca", str(directory / "ca.pem")]
        home = state / "mail" / "example.test" / "me"
        try:
            began = time.monotonic()
            first = subprocess.Popen(words, stdin=subprocess.PIPE)
            assert first.stdin is not None
            first.stdin.write(b"secret\n")
            first.stdin.close()
            while count_in(home) < count // 2 and first.poll() is None:
                time.sleep(0.2)
            first.kill()
            first.wait()
            print(f"killed at {count_in(home)} after {time.monotonic() - began:.0f} s", flush=True)
            for which in ("goes on", "again"):
                began = time.monotonic()
                done = subprocess.run(words, input=b"secret\n", capture_output=True, timeout=PATIENCE)
                took = time.monotonic() - began
                print(f"{which}: {took:.1f} s, {done.stdout.decode().strip()} {done.stderr.decode()[-300:]}")
        finally:
            if dovecot is not None:
                dovecot.terminate()
                dovecot.wait(30)
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        there = {re.sub(",S=.*", "", name) for name in os.listdir(home / "Maildir" / "cur")}
        print(f"{count_in(home)} messages there, {memory:.0f} MiB at most (Dovecot's processes included)")
        good = count_in(home) == len(there) == count and memory <= MEMORY
        print("good" if good else "BAD")
        return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
