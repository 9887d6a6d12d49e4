"""``lorrainemail lab``: one message through two complete servers, every line explained as it passes.

Runs :mod:`lorrainemail.lab` in this process, in a directory of its own that is removed at the end; with
``--keep`` both servers go on until Ctrl-C, for a person to try with his own program. Exit status 0 where Bob
read what Carole wrote, 1 where not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import sys
import tempfile
from typing import Any


def configure(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "lab",
        help="see one message travel through two complete servers",
        description="Carole at elorac.fr writes to Bob at bricoleur.com: a DNS and two complete servers "
        "start on loopback, and each step of the message is shown with its real protocol lines.",
    )
    parser.add_argument("--lang", choices=("en", "fr"), default="en", help="the language of the sentences")
    parser.add_argument("--keep", action="store_true", help="leave both servers running until Ctrl-C")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play it; the exit status."""
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred
    from twisted.internet.error import ReactorNotRunning
    from twisted.logger import globalLogBeginner, textFileLogObserver

    loop: Any = reactor
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without arrows shows question marks
    directory = tempfile.mkdtemp(prefix="lorrainemail-lab-")
    good: list[bool] = []

    async def play() -> None:
        try:
            good.append(await _play(reactor, arguments, directory))
        finally:
            with contextlib.suppress(ReactorNotRunning):  # a Ctrl-C has begun its end already
                loop.stop()

    def begin() -> None:
        Deferred.fromCoroutine(play()).addErrback(_report)

    loop.callWhenRunning(begin)
    try:
        with open(os.path.join(directory, "log"), "w", encoding="utf-8") as log:
            globalLogBeginner.beginLoggingTo([textFileLogObserver(log)], redirectStandardIO=False)
            loop.run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if good == [True] else 1


async def _play(reactor: Any, arguments: argparse.Namespace, directory: str) -> bool:
    from lorrainemail.lab.story import play
    from lorrainemail.lab.words import Voice
    from lorrainemail.lab.world import World

    voice = Voice(arguments.lang)
    world = World(reactor, directory)
    # Whatever ends us, Ctrl-C too, the servers end as they should.
    reactor.addSystemEventTrigger("before", "shutdown", _stop, world)
    good = await play(reactor, world, arguments.lang, _show)
    if good and arguments.keep:
        _show("")
        for line in _invitation(voice, world):
            _show(line)
        await _until_shutdown(reactor)
        _show(voice("gone"))
    return good


def _show(line: str) -> None:
    print(line, flush=True)


def _stop(world: Any) -> Any:
    from twisted.internet.defer import Deferred

    return Deferred.fromCoroutine(world.stop())


async def _until_shutdown(reactor: Any) -> None:
    from twisted.internet.defer import Deferred

    ended: Deferred[None] = Deferred()
    reactor.addSystemEventTrigger("before", "shutdown", ended.callback, None)
    await ended


def _invitation(voice: Any, world: Any) -> list[str]:
    """How to try both servers by hand."""
    lines = [voice("kept", directory=world.directory), ""]
    for house in world.houses:
        facts = {"account": house.account, "password": house.password, "address": house.address}
        lines.append("  " + voice("kept_account", **facts, **house.ports))
    carole, bob = world.houses
    lines += [
        "",
        voice("kept_try"),
        "",
        f"  printf 'From: {carole.account}\\r\\nTo: {bob.account}\\r\\n"
        "Subject: Hello\\r\\n\\r\\nHello Bob.\\r\\n' |",
        f"  curl -sS --ssl-reqd --cacert {carole.authority} --user {carole.account}:{carole.password} \\",
        f"       --mail-from {carole.account} --mail-rcpt {bob.account} --upload-file - \\",
        f"       smtp://{carole.address}:{carole.ports['submission']}",
        "",
        f"  curl -sS --cacert {bob.authority} --user {bob.account}:{bob.password} \\",
        f"       'imaps://{bob.address}:{bob.ports['imaps']}/INBOX;MAILINDEX=2'",
        "",
    ]
    return lines


def _report(failure: Any) -> None:
    print(f"lorrainemail lab: {failure.getErrorMessage()}", flush=True)
