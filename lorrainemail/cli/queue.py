"""``lorrainemail queue``: mail that waits.

Asks the running server through its control socket; where none runs, works on the files itself under the lock
of the state directory (looking needs no lock). Exit status 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from lorrainemail.config.load import locate
from lorrainemail.control.client import NotRunning, call
from lorrainemail.errors import PermanentError

#: Items asked of the server at once.
PAGE: Final = 200

Ask = Callable[..., Any]


def configure(subparsers: Any) -> None:
    """Add the command and its words."""
    parser = subparsers.add_parser(
        "queue",
        help="mail that waits: list, retry, drop, bounce",
        description="The queue: mail that must leave for other servers, or could not be placed at once.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run_list)
    words = parser.add_subparsers(metavar="WORD")
    listing = words.add_parser("list", help="what waits, for whom, why and until when")
    listing.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object")
    listing.set_defaults(run=run_list)
    show = words.add_parser("show", help="everything about one message")
    show.add_argument("id", metavar="ID", help="the message's id, as in the list")
    show.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object")
    show.set_defaults(run=run_show)
    for word, help, done in (
        ("retry", "try now", "is tried now"),
        ("drop", "remove without a word to anybody", "is removed"),
        ("bounce", "give up, and tell the sender where that hits no stranger", "is given up"),
    ):
        action = words.add_parser(word, help=help)
        action.add_argument("ids", metavar="ID", nargs="*", help="messages")
        action.add_argument("--all", action="store_true", help="every message in the queue")
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object")
        action.set_defaults(run=run_action, word=word, done=done, parser=action)


def run_list(arguments: argparse.Namespace) -> int:
    """The whole queue, page by page."""
    ask = _asker(arguments)
    items = _items(ask)
    if arguments.json:
        found = list(items)
        print(json.dumps({"version": 1, "total": len(found), "items": found}, ensure_ascii=False))
        return 0
    count = recipients = 0
    for item in items:
        count += 1
        recipients += sum(one["state"] != "done" for one in item["recipients"])
        print("\n".join(_lines(item, whole=False)))
    if count:
        print(f"\n{count} {_plural(count, 'message')} for {recipients} {_plural(recipients, 'recipient')}")
    else:
        print("The queue is empty.")
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    try:
        item = _asker(arguments)("queue.show", id=arguments.id)
    except PermanentError as error:
        return _fail(error)
    if arguments.json:
        print(json.dumps({"version": 1, "item": item}, ensure_ascii=False))
    else:
        print("\n".join(_lines(item, whole=True)))
    return 0


def run_action(arguments: argparse.Namespace) -> int:
    """retry, drop, bounce. 1 where something was kept."""
    if bool(arguments.ids) == arguments.all:
        arguments.parser.error("name messages, or --all")
    try:
        answer = _changer(arguments)(f"queue.{arguments.word}", ids=arguments.ids, all=arguments.all)
    except PermanentError as error:
        return _fail(error)
    if arguments.json:
        print(json.dumps({"version": 1, **answer}))
    else:
        for identity in answer["done"]:
            print(f"{identity} {arguments.done}")
        for identity in answer["kept"]:
            print(f"{identity} could not be changed now; the server's log says why", file=sys.stderr)
        if not answer["done"] and not answer["kept"]:
            print("The queue is empty.")
    return 1 if answer["kept"] else 0


def _fail(error: PermanentError) -> int:
    print(f"lorrainemail queue: {error.detail or error.reply.text}", file=sys.stderr)
    return 1


# -- whom to ask ----------------------------------------------------------------------------------------


def _asker(arguments: argparse.Namespace) -> Ask:
    """The server, or its files where none runs."""
    state = locate(arguments.config, arguments.state).state

    def ask(command: str, **more: Any) -> Any:
        try:
            return call(state, command, **more)
        except NotRunning:
            return _offline(state)(command, **more)

    return ask


def _changer(arguments: argparse.Namespace) -> Ask:
    """The server, or its files under the lock."""
    state = locate(arguments.config, arguments.state).state

    def ask(command: str, **more: Any) -> Any:
        try:
            return call(state, command, **more)
        except NotRunning:
            from lorrainemail.setup.lock import Locked, StateLock

            try:
                lock = StateLock.acquire(state)
            except Locked as held:
                raise NotRunning(f"process {held.pid} holds {state} and does not listen (yet)") from None
            try:
                return _offline(state)(command, **more)
            finally:
                lock.undo()

    return ask


def _offline(state: str) -> Ask:
    from lorrainemail.ops.files import SYSTEM
    from lorrainemail.queue.commands import Offline
    from lorrainemail.queue.files import Directory
    from lorrainemail.setup.first_start import directories

    return Offline(Directory(directories(state).queue, SYSTEM), time.time()).call


def _items(ask: Ask) -> Iterator[dict[str, Any]]:
    after = ""
    while True:
        page = ask("queue.list", limit=PAGE, after=after)
        yield from page["items"]
        after = page["next"]
        if not after:
            return


# -- words ----------------------------------------------------------------------------------------------


def _lines(item: dict[str, Any], whole: bool) -> list[str]:
    """One message for a person; ``whole``: with recipients that are done, and more facts."""
    sender = item["sender"] or "<> (a notice of a mail server)"
    lines = [f"{item['id']}  {spell(item['age'])} old, {_size(item['size'])}, from {sender}"]
    if whole:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(item["queued_at"]))
        lines.append(f"    queued {when}, came in by {item['door'] or 'this server itself'}")
        if item["account"]:
            lines.append(f"    sent by the account {item['account']}")
    for one in item["recipients"]:
        if one["state"] == "done" and not whole:
            continue
        lines.append(f"    to {one['address']}: {_standing(one)}")
        if whole and one["original"] and one["original"] != one["address"]:
            lines.append(f"        was {one['original']}")
        if one["last_reply"]:
            lines.append(f"        {one['last_reply']}")
    return lines


def _standing(one: dict[str, Any]) -> str:
    tried = (
        f"{one['attempts']} {_plural(one['attempts'], 'try', 'tries')} so far, " if one["attempts"] else ""
    )
    state = one["state"]
    if state == "done":
        return "done"
    if state == "held":
        return f"{tried}held"
    if state == "waiting":
        return f"{tried}next try {_soon(one['next_try'])}"
    if one["next_try"]:
        return f"{tried}{state}; next try {_soon(one['next_try'])}"
    return f"{tried}{state}"


def _soon(seconds: float | None) -> str:
    return f"in {spell(seconds)}" if seconds is not None and seconds >= 1 else "now"


def spell(seconds: float) -> str:
    """A span of time as a person says it: its largest unit, two where the first is small."""
    left = int(seconds)
    parts: list[tuple[int, str]] = []
    for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        amount, left = divmod(left, size)
        if amount or parts:
            parts.append((amount, name))
        if len(parts) == 2 or (parts and parts[0][0] >= 10):
            break
    return " ".join(f"{amount} {name}" for amount, name in parts if amount) or "0 s"


def _size(octets: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if octets >= size:
            return f"{octets / size:.1f} {unit}"
    return f"{octets} octets"


def _plural(count: int, one: str, many: str = "") -> str:
    return one if count == 1 else many or f"{one}s"
