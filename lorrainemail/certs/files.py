"""Small files of this package: written whole, synced and renamed into place, or not at all.

Blocking; called at start, in commands and in threads. Fails with OSError. What cannot be read as JSON reads
as empty: every such file only remembers what can be found out again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final

#: A larger file is none of ours.
MAX_JSON: Final = 1 << 20


def write(path: str, content: bytes, mode: int) -> None:
    """Whole and synced, or not there at all; never readable by others, not even for a moment."""
    temporary = f"{path}.new"
    try:
        os.unlink(temporary)
    except FileNotFoundError:
        pass  # the usual case; a leftover of a start that was cut off goes
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    os.rename(temporary, path)
    sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def make_directory(path: str) -> None:
    """The directory and those above it, for us alone, on the disk."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_directory(parent)
    os.mkdir(path, 0o700)
    sync_directory(parent)


def read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = json.loads(file.read(MAX_JSON))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def write_json(path: str, data: Mapping[str, Any]) -> None:
    make_directory(os.path.dirname(path))
    write(path, json.dumps(data, indent=1, sort_keys=True).encode() + b"\n", 0o600)
