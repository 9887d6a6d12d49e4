"""Scripts over messages, in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lorrainemail.addresses import parse_address
from lorrainemail.sieve.effects import Context, Envelope, FileInto, Keep, Redirect, Reject, Result, Sent
from lorrainemail.sieve.language import EXTENSIONS, compile_script
from lorrainemail.sieve.message import Message
from lorrainemail.sieve.run import run_program

REQUIRE = "require [" + ", ".join(f'"{name}"' for name in sorted(EXTENSIONS)) + "];\n"
REQUIRE += 'require ["comparator-i;ascii-numeric", "comparator-i;unicode-casemap"];\n'
NOW = 1_795_334_400.0  # Sun, 22 Nov 2026 08:00:00 +0000


def run_script(
    script: str,
    message: str | bytes,
    sender: str = "carole@elorac.fr",
    recipient: str = "bob@bricoleur.com",
    library: Callable[[str, str], bytes | None] = lambda where, name: None,
    **context: Any,
) -> Result:
    data = message if isinstance(message, bytes) else message.encode().replace(b"\n", b"\r\n")
    program = compile_script((REQUIRE + script).encode(), library)
    envelope = Envelope(parse_address(sender) if sender else None, parse_address(recipient))
    return run_program(program, Message.of(data), envelope, Context(**{"now": NOW, **context}))


def told(result: Result) -> list[str]:
    """Effects as short words."""
    if result.error:
        return [f"error {result.error}"]
    found = []
    for effect in result.effects:
        if isinstance(effect, Keep | FileInto):
            name = "keep" if isinstance(effect, Keep) else effect.folder
            found.append(" ".join([name, *effect.flags]))
        elif isinstance(effect, Redirect):
            found.append(f"> {effect.address}")
        elif isinstance(effect, Reject):
            found.append(f"{effect.kind} {effect.text}")
        elif isinstance(effect, Sent):
            found.append(effect.kind)
    return found


@pytest.fixture
def does() -> Callable[..., list[str]]:
    """What a script does with a message, as short words."""
    return lambda script, message, **more: told(run_script(script, message, **more))


@pytest.fixture
def runs() -> Callable[..., Result]:
    """The whole result."""
    return run_script
