"""A start with a large queue: time until it is read, memory, the longest callback, and fresh mail beside it.

    python benchmarks/queue_start.py [--messages 100000] [--due]

Makes a queue of that many messages (hard links of one message file, an envelope each) on the file system of
the temporary directory, starts ``twistd -n lorrainemail`` on it, and sends fresh mail to a mailbox; the same
with an empty queue, for comparison. ``--due``: all of them are due at once, for a next hop that is down.

Goals for 100,000: read in 5 s, at most 200 MiB, no callback over 20 ms of CPU, fresh mail as with no queue.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Envelope, Recipient
from lorrainemail.interfaces import QueueItem, QueueRecipient
from lorrainemail.ops.files import SYSTEM
from lorrainemail.ops.ids import new_id
from lorrainemail.queue.files import Directory
from lorrainemail.queue.format import Stored, encode

SECONDS, MEMORY, CALLBACK = 5.0, 200.0, 20.0
PATIENCE = 120.0
FRESH = 1000
MESSAGE = b"From: a@far.test\r\nSubject: x\r\n\r\n" + b"line of a message\r\n" * 200
CONFIGURATION = """hostname = "mail.example.test"
local_domains = ["example.test"]
[listen]
smtp = ['tcp:{port}:interface=127.0.0.1']
[policy]
checks = ["loops"]
[relay]
"*" = "[127.0.0.1]:1"
"""


def make_queue(state: Path, messages: int, due: bool) -> None:
    """Items for 1,000 domains."""
    directory = Directory(str(state / "queue"), SYSTEM)
    directory.prepare()
    first = state / "queue" / "first"
    first.write_bytes(MESSAGE)
    now = time.time()
    for number in range(messages):
        if number % 10_000 == 0:  # file systems bound the links of one file
            first.unlink()
            first.write_bytes(MESSAGE)
        id = new_id()
        one = QueueRecipient(
            "remote",
            Recipient(parse_address(f"user{number}@d{number % 1000}.test")),
            attempts=3,
            next_try=0.0 if due else now + 3600 + number % 3600,
            last_reply="451 4.3.0 Temporary failure, please try again later",
        )
        envelope = Envelope(id, parse_address(f"sender{number}@example.test"), (), received_at=now)
        item = QueueItem(envelope, (one,), now, len(MESSAGE), "submission", "me@example.test", True)
        (state / "queue" / f"{id}.json").write_bytes(encode(Stored(item, False, 60.0)))
        os.link(first, state / "queue" / f"{id}.msg")
    first.unlink()


def memory(pid: int) -> float:
    """Peak RSS in MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", text)
    assert found is not None
    return int(found.group(1)) / 1024


def cpu(pid: int) -> float:
    """Seconds of CPU so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def fresh(port: int) -> float:
    """Messages a second for a mailbox, by one connection that is kept."""
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        began = time.monotonic()
        for _ in range(FRESH):
            client.sendmail("a@far.test", ["me@example.test"], MESSAGE)
        return FRESH / (time.monotonic() - began)


def measure(messages: int, due: bool) -> dict[str, float]:
    """One server's figures."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="lorrainemail-queue-") as directory:
        state, log = Path(directory, "state"), Path(directory, "log")
        state.mkdir(mode=0o700)
        (state / "lorrainemail.toml").write_text(CONFIGURATION.format(port=port))
        (state / "accounts").write_text("me@example.test:{ARGON2ID}none\n")
        make_queue(state, messages, due)
        twistd = str(Path(sys.executable).parent / "twistd")
        words = [twistd, "-n", "--pidfile=", f"--rundir={directory}", "lorrainemail", f"--state={state}"]
        environment = {**os.environ, "LORRAINEMAIL_MEASURE_CALLBACKS": "1"}
        began = time.monotonic()
        with open(log, "wb") as output:
            process = subprocess.Popen(
                words, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment
            )
        found: dict[str, float] = {}
        try:
            while True:
                text = log.read_text(errors="replace")
                if "greets" not in found and os.path.exists(state / "control.sock"):
                    found["greets"] = time.monotonic() - began
                if "The queue is read" in text or (not messages and "greets" in found):
                    break
                if process.poll() is not None or time.monotonic() - began > PATIENCE:
                    raise SystemExit(f"the server did not come up:\n{text[-3000:]}")
                time.sleep(0.02)
            found["read"] = time.monotonic() - began
            spent = cpu(process.pid)
            found["fresh"] = fresh(port)
            found["cpu"] = (cpu(process.pid) - spent) * 1000 / FRESH
            found["memory"] = memory(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
        text = log.read_text(errors="replace")
        callback = re.search(r"longest callback ([\d.]+) ms \((.*?)\), (\d+) of", text)
        lag = re.search(r"worst lag ([\d.]+) ms", text)
        assert callback is not None and lag is not None
        found["lag"] = float(lag.group(1))
        found["callback"] = float(callback.group(1))
        found["over"] = float(callback.group(3))
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description="A start with a large queue")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--due", action="store_true", help="all are due at once, for a next hop that is down")
    options = parser.parse_args()
    empty, full = measure(0, False), measure(options.messages, options.due)
    print(f"{options.messages} messages{', all due' if options.due else ''}:")
    for name, value, goal, unit in (
        ("read after", full["read"], SECONDS, "s"),
        ("memory, peak", full["memory"], MEMORY, "MiB"),
        ("longest callback", full["callback"], CALLBACK, "ms"),
    ):
        verdict = "reached" if value <= goal else "NOT reached"
        print(f"  {name}: {value:.1f} {unit}; goal {goal:.0f} {unit}: {verdict}")
    print(
        f"  callbacks over {CALLBACK:.0f} ms: {full['over']:.0f}; worst lag of the loop {full['lag']:.0f} ms"
    )
    print(f"  the doors were open after {full['greets']:.1f} s ({empty['greets']:.1f} s with an empty queue)")
    for found, which in ((full, "beside it"), (empty, "with an empty queue")):
        print(f"  fresh mail {which}: {found['fresh']:.0f}/s, {found['cpu']:.2f} s of CPU per 1,000")
    return 0 if full["read"] <= SECONDS and full["memory"] <= MEMORY and full["callback"] <= CALLBACK else 1


if __name__ == "__main__":
    sys.exit(main())
