"""The control socket's language: one JSON object a line, a question and its answer.

A question is ``{"command": NAME, "arguments": {...}}``; an answer ``{"ok": true, "result": ...}`` or
``{"ok": false, "error": "words for the operator"}``. Pure, and without Twisted, so that a command of the
operator's starts quickly. Used by :mod:`lorrainemail.control.server` and :mod:`lorrainemail.control.client`.
"""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

SOCKET_NAME: Final = "control.sock"
#: The longest question, and the longest answer that a client reads, in octets.
MAX_QUESTION: Final = 1 << 20
MAX_ANSWER: Final = 64 << 20
#: Seconds that a command may take in the server; a client waits a little longer.
MAX_SECONDS: Final = 120.0


class Refused(Exception):
    """A command cannot be done; the text is for the operator."""


class Malformed(ValueError):
    """A line is no question or no answer."""


@attrs.frozen(slots=True)
class Question:
    command: str
    arguments: dict[str, Any]


def encode_question(command: str, arguments: dict[str, Any]) -> bytes:
    return json.dumps({"command": command, "arguments": arguments}).encode("ascii") + b"\n"


def decode_question(line: bytes) -> Question:
    """:raises Malformed: with words that may be sent back."""
    value = _object(line)
    command, arguments = value.get("command"), value.get("arguments", {})
    if not isinstance(command, str) or not isinstance(arguments, dict):
        raise Malformed("a question has a command and an object of arguments")
    return Question(command, arguments)


def encode_result(result: object) -> bytes:
    """:raises TypeError: where the result is no JSON."""
    return json.dumps({"ok": True, "result": result}).encode("ascii") + b"\n"


def encode_error(words: str) -> bytes:
    return json.dumps({"ok": False, "error": words}).encode("ascii") + b"\n"


def decode_answer(line: bytes) -> Any:
    """The result.

    :raises Refused: where the server said no.
    :raises Malformed: where it spoke something else.
    """
    value = _object(line)
    if value.get("ok") is True:
        return value.get("result")
    if value.get("ok") is False:
        raise Refused(str(value.get("error", "")))
    raise Malformed("the server's answer is not understood")


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise Malformed("a line is one JSON object") from None
    if not isinstance(value, dict):
        raise Malformed("a line is one JSON object")
    return value
