"""How fast mail for local mailboxes is taken, and what it costs: the whole server against many SMTP clients.

Starts a server as shipped (``twistd -n lorrainemail``; trace and index on) on loopback with some accounts,
reads each mailbox once by IMAP (an index that nobody has asked for waits for its first reader; ``--cold``
leaves it so), and a load client in a process of its own: many clients, a new connection for each message
(``--kept``: one for all of a client's), each message safe in its mailbox before its 250. Then counts what
lies in the mailboxes, and says the rate, the server's CPU for each message, and how long a client waits.
``--postfix`` measures Debian's Postfix with virtual(8) beside it.

    python benchmarks/smtp_local.py [--messages 6000] [--clients 50] [--size 4096] [--recipients 1] [--kept]
        [--postfix] [--runs 1] [--callbacks]

Run it on an otherwise quiet machine, on the kind of disk that mail will lie on (``--directory``).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
from smtp_load import PATIENCE, Load, run_load
from smtp_servers import Lorrainemail, Postfix, cpu_seconds, may_run_postfix

#: Seconds in which a server brings its index up to date.
SETTLE = 4.0

GOAL_RATE = 1200.0
GOAL_CPU = 0.7


def measure(server: Lorrainemail | Postfix, wanted: Load, cold: bool = False) -> dict[str, Any]:
    """Warm up, then measure.

    :param cold: nobody has read the mailboxes.
    """
    warm = attrs.evolve(wanted, messages=max(wanted.clients * 2, wanted.messages // 10))
    before = run_load(server.port, warm)["sent"] * wanted.recipients
    if isinstance(server, Lorrainemail) and not cold:
        server.read_once(wanted.accounts)
    time.sleep(SETTLE)
    spent = cpu_seconds(server.pids())
    result = run_load(server.port, wanted)
    expected = before + result["sent"] * wanted.recipients
    # What a server does after its 250 (an index, a queue) is part of its price.
    deadline = time.monotonic() + PATIENCE
    while server.delivered() < expected and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(SETTLE)
    result["cpu"] = (cpu_seconds(server.pids()) - spent) / max(1, result["sent"]) * 1000
    result["resident"] = server.resident()
    result["missing"] = expected - server.delivered()
    return result


def report(name: str, result: dict[str, Any]) -> None:
    print(
        f"{name:14} {result['rate']:7.0f} messages/s   {result['cpu']:.3f} ms CPU each   "
        f"p50 {result['p50']:.1f} ms   p99 {result['p99']:.1f} ms   RSS {result['resident']:.0f} MiB   "
        f"failed {result['failed']}   missing {result['missing']}   "
        f"(client {result['client_cpu']:.3f} ms)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=6000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--accounts", type=int, default=50)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--recipients", type=int, default=1, help="of each message")
    parser.add_argument("--kept", action="store_true", help="a client keeps its connection")
    parser.add_argument(
        "--pipelined", action="store_true", help="MAIL, RCPT and DATA in one packet (RFC 2920)"
    )
    parser.add_argument("--runs", type=int, default=1, help="of each server, by turns; medians at the end")
    parser.add_argument("--cold", action="store_true", help="nobody has read the mailboxes: no index is kept")
    parser.add_argument("--postfix", action="store_true", help="measure Postfix beside it (needs root)")
    parser.add_argument("--callbacks", action="store_true", help="a second run that times every callback")
    parser.add_argument(
        "--directory", default="", help="where state is made (default: the temporary directory)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the directory behind")
    parser.add_argument("--command", default="", help="another server: {state} and {port} are replaced")
    options = parser.parse_args()
    wanted = Load(
        options.clients,
        options.messages,
        options.size,
        options.accounts,
        options.recipients,
        options.pipelined,
        options.kept,
    )
    root = Path(tempfile.mkdtemp(prefix="lorrainemail-bench-", dir=options.directory or None))
    postfix = options.postfix and may_run_postfix()
    ours: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    try:
        for run in range(options.runs):
            server = Lorrainemail(root / f"ours{run}", options.accounts, False, options.command)
            try:
                ours.append(measure(server, wanted, options.cold or bool(options.command)))
            finally:
                server.stop()
            report(server.name, ours[-1])
            if postfix:
                other = Postfix(root / f"postfix{run}", options.accounts)
                try:
                    others.append(measure(other, wanted))
                finally:
                    other.stop()
                report(other.name, others[-1])
        if options.callbacks:
            server = Lorrainemail(root / "timed", options.accounts, True, options.command)
            try:
                measure(server, wanted, options.cold)
            finally:
                print(f"{'':14} {server.stop() or 'no word of the callbacks'}")
    finally:
        if options.keep:
            print(f"left behind: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    return 0 if judge(ours, others) else 1


def judge(ours: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """Say whether the medians reach the goal."""

    def median(results: list[dict[str, Any]], fact: str) -> float:
        return float(statistics.median(result[fact] for result in results))

    rate, cpu = median(ours, "rate"), median(ours, "cpu")
    good = rate >= GOAL_RATE and cpu <= GOAL_CPU
    good = good and not any(result["missing"] or result["failed"] for result in ours)
    print(f"median         {rate:.0f} messages/s, {cpu:.3f} ms CPU each")
    print(f"goal           {GOAL_RATE:.0f}/s and {GOAL_CPU} ms: {'reached' if good else 'NOT reached'}")
    if others:
        faster, cheaper = rate / median(others, "rate"), cpu / median(others, "cpu")
        print(f"beside Postfix {faster:.2f} times its rate, {cheaper:.2f} of its CPU")
    return good


if __name__ == "__main__":
    sys.exit(main())
