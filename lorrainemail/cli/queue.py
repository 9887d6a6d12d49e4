"""``lorrainemail queue``: mail that waits, and what became of mail that did.

Asks the running server through its control socket; where none runs, works on the files itself under the lock
of the state directory (looking needs no lock). Exit status 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from lorrainemail.config.load import locate
from lorrainemail.config.values import Wrong, parse_duration
from lorrainemail.control.client import Malformed, NotAllowed, NotRunning, Refused, call
from lorrainemail.errors import PermanentError

#: Items asked of the server at once.
PAGE: Final = 200

#: Recipients that the history tells of, unless more are asked for.
NEWEST: Final = 100
OUTCOMES: Final = ("delivered", "bounced", "expired", "dropped")

_REFUSED: Final = "could not be changed now; the server's log says why"
# An action: what it is for; what is said of a message that it was done to, and of one that it was not.
_ACTIONS: Final = {
    "retry": ("try now", "is tried now", "is held: release it first"),
    "hold": ("do not try until it is released", "is held", "had nothing left to hold"),
    "release": ("try again what was held", "is released", "was not held"),
    "drop": ("remove without a word to anybody", "is removed", _REFUSED),
    "bounce": ("give up, and tell the sender where that hits no stranger", "is given up", _REFUSED),
}

Ask = Callable[..., Any]


def configure(subparsers: Any) -> None:
    """Add the command and its words."""
    parser = subparsers.add_parser(
        "queue",
        help="mail that waits: list, show, retry, hold, release, drop, bounce; history",
        description="The queue: mail that must leave for other servers, or could not be placed at once.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run_list)
    words = parser.add_subparsers(metavar="WORD")
    listing = words.add_parser("list", help="what waits, for whom, why and until when")
    _choosing(listing)
    _json(listing)
    listing.set_defaults(run=run_list)
    show = words.add_parser("show", help="everything about one message")
    show.add_argument("id", metavar="ID", help="the message's id, as in the list")
    _json(show)
    show.set_defaults(run=run_show)
    for word, (help, done, kept) in _ACTIONS.items():
        action = words.add_parser(word, help=help)
        action.add_argument("ids", metavar="ID", nargs="*", help="messages")
        action.add_argument("--all", action="store_true", help="every message in the queue")
        _choosing(action)
        _json(action)
        action.set_defaults(run=run_action, word=word, done=done, kept=kept, parser=action)
    history = words.add_parser("history", help="what became of messages that left the queue")
    history.add_argument(
        "what",
        metavar="WHAT",
        nargs="?",
        default="",
        help="an id (ours or the other server's), address, domain",
    )
    history.add_argument("--since", type=_span, metavar="TIME", help='only the last "2h", "3d"')
    history.add_argument("--outcome", choices=OUTCOMES, help="only those that ended so")
    history.add_argument("--reason", metavar="TEXT", default="", help="a part of the last reply")
    history.add_argument(
        "--limit", type=int, default=NEWEST, metavar="N", help=f"the newest N, {NEWEST} if not given"
    )
    _json(history)
    history.set_defaults(run=run_history)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object")


def _choosing(parser: argparse.ArgumentParser) -> None:
    """The words that choose messages; all that are given must hold."""
    chosen = parser.add_argument_group("which messages (all that is given must hold)")
    chosen.add_argument("--sender", metavar="WHO", help='an address, a domain, or "<>"')
    chosen.add_argument("--to", dest="recipient", metavar="WHOM", help="an address or a domain")
    chosen.add_argument("--older", type=_span, metavar="TIME", help='at least so old: "30m", "4h", "2d"')
    chosen.add_argument("--newer", type=_span, metavar="TIME", help="at most so old")
    chosen.add_argument("--reason", metavar="TEXT", help="a part of the last reply")
    chosen.add_argument("--held", action="store_true", help="those that are held")


def _span(text: str) -> int:
    try:
        return parse_duration(text)
    except Wrong as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None


def _choice(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was chosen, in the words of :class:`lorrainemail.queue.select.Choice`."""
    names = ("sender", "recipient", "older", "newer", "reason")
    choice = {name: getattr(arguments, name, None) for name in names}
    choice["state"] = "held" if getattr(arguments, "held", False) else None
    return {name: value for name, value in choice.items() if value is not None}


def run_list(arguments: argparse.Namespace) -> int:
    """The whole queue, or what was chosen of it, page by page."""
    choice = _choice(arguments)
    items = _items(_asker(arguments), choice)
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
        print("Nothing in the queue is like that." if choice else "The queue is empty.")
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    try:
        item = _asker(arguments)("queue.show", id=arguments.id)
    except (PermanentError, Refused) as error:
        return _fail(error)
    if arguments.json:
        print(json.dumps({"version": 1, "item": item}, ensure_ascii=False))
    else:
        print("\n".join(_lines(item, whole=True)))
    return 0


def run_action(arguments: argparse.Namespace) -> int:
    """retry, hold, release, drop, bounce. 1 where something was kept as it was."""
    choice = _choice(arguments)
    if bool(arguments.ids) + arguments.all + bool(choice) != 1:
        arguments.parser.error("name messages, or choose them by --sender, --to and the like, or --all")
    ask = _changer(arguments)
    done: list[str] = []
    kept: list[str] = []
    try:
        ids = arguments.ids or [item["id"] for item in _items(ask, choice)]
        for start in range(0, len(ids), PAGE):
            part = ids[start : start + PAGE]
            answer = _change(ask, arguments.word, part, named=bool(arguments.ids))
            done += answer["done"]
            kept += answer["kept"]
    except (PermanentError, Refused) as error:
        return _fail(error)
    if arguments.json:
        print(json.dumps({"version": 1, "done": done, "kept": kept}))
    else:
        for identity in done:
            print(f"{identity} {arguments.done}")
        for identity in kept:
            print(f"{identity} {arguments.kept}", file=sys.stderr)
        if not ids:
            print("Nothing in the queue is like that." if choice else "The queue is empty.")
    return 1 if kept else 0


def _change(ask: Ask, word: str, ids: list[str], named: bool) -> Any:
    """Some messages at once. Those that were chosen, not named, may have left meanwhile."""
    try:
        return ask(f"queue.{word}", ids=ids)
    except (PermanentError, Refused):
        if named:
            raise
    answer: dict[str, list[str]] = {"done": [], "kept": []}
    for identity in ids:
        try:
            one = ask(f"queue.{word}", ids=[identity])
        except (PermanentError, Refused):
            continue  # it has left
        answer["done"] += one["done"]
        answer["kept"] += one["kept"]
    return answer


def run_history(arguments: argparse.Namespace) -> int:
    """What became of recipients, oldest first; 1 where nothing is known."""
    state = locate(arguments.config, arguments.state).state
    with contextlib.suppress(NotRunning, NotAllowed, Refused, Malformed):  # then what is on disk is all
        call(state, "queue.history.flush")
    since = time.time() - arguments.since if arguments.since else 0.0
    reason = arguments.reason.casefold()

    def wanted(record: dict[str, Any]) -> bool:
        return (not arguments.outcome or record.get("outcome") == arguments.outcome) and (
            reason in str(record.get("reply", "")).casefold()
        )

    from lorrainemail.queue.history import records
    from lorrainemail.setup.places import directories

    try:
        newest = records(f"{directories(state).queue}/history", since, arguments.what, wanted)
        found = list(itertools.islice(newest, max(1, arguments.limit)))[::-1]
    except OSError as error:
        print(f"lorrainemail queue: the history cannot be read: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps({"version": 1, "records": found}, ensure_ascii=False))
    else:
        for record in found:
            print("\n".join(map(_clean, _history_lines(record))))
    if not found:
        print("lorrainemail queue: nothing is known of it (or not any more)", file=sys.stderr)
        return 1
    return 0


def _history_lines(record: dict[str, Any]) -> Iterator[str]:
    """One recipient's end for a person."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["time"]))
    sender = record.get("sender") or "<>"
    tries = record.get("attempts", 0)
    yield (
        f"{when}  {record.get('id')}  {record.get('outcome')}: {sender} to {record.get('recipient')}, "
        f"after {spell(record.get('seconds', 0))}, {tries} {_plural(tries, 'try', 'tries')}"
    )
    if record.get("host"):
        yield f"    by {record['host']}" + (f", {record['tls']}" if record.get("tls") else "")
    if record.get("reply"):
        yield f"    {record['reply']}"
    if record.get("remote_id"):
        yield f"    its id there: {record['remote_id']}"
    if record.get("notice"):
        yield f"    notice: {record['notice']}"


def _clean(text: str) -> str:
    """Somebody's words on somebody's terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _fail(error: PermanentError | Refused) -> int:
    words = str(error) if isinstance(error, Refused) else error.detail or error.reply.text
    print(f"lorrainemail queue: {words}", file=sys.stderr)
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
    from lorrainemail.setup.places import directories
    from lorrainemail.tables.edit import as_owner

    offline = Offline(Directory(directories(state).queue, SYSTEM), time.time())

    def ask(command: str, **more: Any) -> Any:
        # What root rewrites must still be the server's to read.
        with as_owner(state):
            return offline.call(command, **more)

    return ask


def _items(ask: Ask, choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    after = ""
    while True:
        page = ask("queue.list", limit=PAGE, after=after, choice=choice)
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
