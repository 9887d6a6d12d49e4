"""``lorrainemail trace``: what happened to a message, in order and in words.

Reads ``trace.sqlite`` directly, beside a running server, which is asked to write down what it knows before,
or without one. Exit status 0 where something was
found, 1 where nothing was or the trace cannot be read, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from lorrainemail.config.load import locate
from lorrainemail.config.values import Wrong, parse_duration
from lorrainemail.control.client import Malformed, NotAllowed, NotRunning, Refused, call
from lorrainemail.ops.trace import Event, stories, trace_path

#: Stories that are printed at most, unless ``--all``.
MAX_STORIES: Final = 100


def configure(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "trace",
        help="what happened to a message",
        description="What happened to messages: one by id or Message-ID, or all from and to an address.",
    )
    parser.add_argument(
        "what", nargs="?", default="", help="an id, a Message-ID or an address; none: everything"
    )
    parser.add_argument("--since", type=_since, default=0, metavar="TIME", help='only the last "2h", "3d"')
    parser.add_argument("--all", action="store_true", help=f"not only the newest {MAX_STORIES} messages")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def _since(text: str) -> int:
    try:
        return parse_duration(text)
    except Wrong as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None


def run(arguments: argparse.Namespace) -> int:
    """Look and print; the exit status."""
    state = locate(arguments.config, arguments.state).state
    path = trace_path(state)
    # Where no server runs, or it does not answer, what is on disk is all there is.
    with contextlib.suppress(NotRunning, NotAllowed, Refused, Malformed):
        call(state, "trace.flush")
    since = time.time() - arguments.since if arguments.since else 0.0
    from lorrainemail.tables.edit import as_owner

    try:
        with as_owner(state):
            found = list(stories(path, arguments.what, since, 0 if arguments.all else MAX_STORIES))
    except FileNotFoundError:
        print(f"lorrainemail: there is no trace at {path}: the server has not run there yet", file=sys.stderr)
        return 1
    except sqlite3.Error as error:
        print(f"lorrainemail: {path} cannot be read: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        messages = [
            {"id": story[0].message, "events": [attrs.asdict(event) for event in story]} for story in found
        ]
        print(json.dumps({"version": 1, "messages": messages}))
    else:
        for number, story in enumerate(found):
            if number:
                print()
            for line in told(story):
                print(line)
    if not found:
        if not arguments.json:
            print("lorrainemail: nothing is known of it (or not any more)", file=sys.stderr)
        return 1
    return 0


def told(story: list[Event]) -> Iterable[str]:
    """One story, a line an event."""
    yield f"message {_clean(story[0].message)}"
    for event in story:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
        words = _WORDS.get(event.kind, _any)(event.facts)
        yield f"  {moment}.{int(event.time % 1 * 1000):03}  {event.kind:9} {_clean(words)}"


def _clean(text: str) -> str:
    """Somebody's words on somebody's terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _sender(facts: dict[str, Any]) -> str:
    return f"<{facts.get('sender', '')}>"


def _listed(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _received(facts: dict[str, Any]) -> str:
    words = (
        f"from {_sender(facts)} for {_listed(facts.get('recipients', ''))}, {facts.get('size', '?')} octets"
    )
    if facts.get("peer"):
        words += f", from {facts['peer']} ({facts.get('helo', '')})"
    words += f" at {facts.get('door', '?')}"
    if facts.get("account"):
        words += f", logged in as {facts['account']}"
    if facts.get("tls"):
        words += f", {facts['tls']}"
    if facts.get("message_id"):
        words += f", Message-ID {facts['message_id']}"
    for verdict in facts.get("verdicts", ()):
        words += f"; {verdict}"
    for recipient, verdicts in facts.get("verdicts_for", {}).items():
        words += f"; for {recipient}: {', '.join(verdicts)}"
    return words


def _delivered(facts: dict[str, Any]) -> str:
    return (
        f"to {facts.get('account', '?')}, folder {facts.get('folder') or 'INBOX'}: {facts.get('where', '')}"
    )


def _injected(facts: dict[str, Any]) -> str:
    cause = f" because of {facts['cause']}" if facts.get("cause") else ""
    return f"by this server{cause}: from {_sender(facts)} for {_listed(facts.get('recipients', ''))}"


def _attempted(facts: dict[str, Any]) -> str:
    words = str(facts.get("recipient", ""))
    if facts.get("host"):
        words += f" by {facts['host']}"
    if facts.get("reply"):
        words += f": {facts['reply']}"
    known = ("recipient", "host", "reply")
    rest = ", ".join(
        f"{name} {_listed(value)}" for name, value in facts.items() if name not in known and value
    )
    return f"{words} ({rest})".strip() if rest else words.strip(": ")


def _any(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_listed(value)}" for name, value in facts.items() if value not in ("", None))


_WORDS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "received": _received,
    "delivered": _delivered,
    "injected": _injected,
    "queued": lambda facts: f"for {_listed(facts.get('recipients', ''))}",
    "relayed": _attempted,
    "deferred": _attempted,
    "refused": _attempted,
    "bounced": _attempted,
    "expired": _attempted,
}
