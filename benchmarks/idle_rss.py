"""How much memory the server needs while nothing happens: RSS of ``twistd -n lorrainemail`` as installed.

    python benchmarks/idle_rss.py [--seconds 5]

Goal: at most 80 MiB on the embedded default (all doors open, no connection).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL = 80.0
PATIENCE = 60.0
CONFIGURATION = """hostname = "mail.example.test"
local_domains = ["example.test"]
[listen]
smtp = ['tcp:0:interface=127.0.0.1']
submission = ['tcp:0:interface=127.0.0.1']
submissions = ['tcp:0:interface=127.0.0.1']
pop3 = ['tcp:0:interface=127.0.0.1']
pop3s = ['tcp:0:interface=127.0.0.1']
imap = ['tcp:0:interface=127.0.0.1']
imaps = ['tcp:0:interface=127.0.0.1']
"""


def figures(pid: int) -> dict[str, float]:
    """MiB of RSS and its peak."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(("VmRSS", "VmHWM")):
            found[line[:5]] = int(line.split()[1]) / 1024
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="RSS of an idle server")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long it is left alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lorrainemail-idle-") as directory:
        state = Path(directory, "state")
        state.mkdir(mode=0o700)
        (state / "lorrainemail.toml").write_text(CONFIGURATION)
        (state / "accounts").write_text("me@example.test:{ARGON2ID}none\n")
        log = Path(directory, "log")
        twistd = str(Path(sys.executable).parent / "twistd")
        words = [twistd, "-n", "--pidfile=", f"--rundir={directory}", "lorrainemail", f"--state={state}"]
        with open(log, "wb") as output:
            process = subprocess.Popen(words, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + PATIENCE
            while not os.path.exists(state / "control.sock") and process.poll() is None:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
            time.sleep(options.seconds)
            if process.poll() is not None:
                print(log.read_text()[-3000:], file=sys.stderr)
                return 1
            found = figures(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
    good = found["VmRSS"] <= GOAL
    print(f"idle: {found['VmRSS']:.1f} MiB RSS (peak {found['VmHWM']:.1f}); goal {GOAL:.0f} MiB: ", end="")
    print("reached" if good else "NOT reached")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
