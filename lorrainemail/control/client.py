"""Asking the running server, from a command: synchronous, bounded, without Twisted.

Called by ``lorrainemail queue``, ``reload``, ``status`` and whatever else changes live state. A command that
can do its work without a server asks :func:`call` first and, on :class:`NotRunning`, takes the state's lock.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from lorrainemail.control.words import (
    MAX_ANSWER,
    MAX_SECONDS,
    SOCKET_NAME,
    Malformed,
    Refused,
    decode_answer,
    encode_question,
)

__all__ = ["Malformed", "NotAllowed", "NotRunning", "Refused", "call"]


class NotRunning(Exception):
    """No server serves this state directory."""


class NotAllowed(Exception):
    """There is a server, and this user may not ask it."""


def call(state: str, command: str, **arguments: Any) -> Any:
    """Ask the server of a state directory; its result.

    :raises NotRunning: where none serves it.
    :raises NotAllowed: where this user may not ask.
    :raises Refused: with the server's words, where it says no.
    :raises Malformed: where it ends without an answer, or does not answer in time.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(MAX_SECONDS + 10)
        try:
            _connect(connection, os.path.join(state, SOCKET_NAME))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NotRunning(f"no server runs on {state}") from None
        except PermissionError:
            raise NotAllowed(f"only root and the server's own user may ask the server on {state}") from None
        try:
            connection.sendall(encode_question(command, arguments))
            with connection.makefile("rb") as stream:
                line = stream.readline(MAX_ANSWER)
        except TimeoutError:
            raise Malformed("the server does not answer") from None
        except OSError:
            line = b""  # it went away, as on "stop"
    if not line.endswith(b"\n"):
        raise Malformed("the server ended the connection without an answer")
    return decode_answer(line)


def _connect(connection: socket.socket, path: str) -> None:
    """Connect, also to a path that is too long for a socket's address (108 octets)."""
    if len(os.fsencode(path)) < 108:
        connection.connect(path)
        return
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)
