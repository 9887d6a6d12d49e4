"""Which contents of the table files were meant: the state file ``tables.stamp``.

A command that edits a table notes the digest and the number of rows of what it wrote; ``check --confirm``
notes what stands there now; the server notes what it uses. So a running server can tell an account that was
removed by command from a file that was cut off by accident, without any conversation, and a starting one sees
that a table, or most of it, is gone. JSON, one object; a stamp that cannot be read means nothing was
confirmed. Blocking, small and bounded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Final

import attrs

FILE_NAME: Final = "tables.stamp"
#: A larger file is none of ours.
MAX_STAMP: Final = 64 * 2**10


@attrs.frozen(slots=True)
class Stamp:
    """What was meant to stand in one table file."""

    digest: str
    rows: int


def digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def read_stamps(state: str) -> dict[str, Stamp]:
    """By table name; empty where there is no usable stamp."""
    try:
        with open(os.path.join(state, FILE_NAME), "rb") as stream:
            data = json.loads(stream.read(MAX_STAMP))
        return {
            name: Stamp(str(entry["sha256"]), int(entry["rows"])) for name, entry in data["tables"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def print_stamps(stamps: Mapping[str, Stamp]) -> bytes:
    tables = {name: {"sha256": stamp.digest, "rows": stamp.rows} for name, stamp in sorted(stamps.items())}
    return json.dumps({"version": 1, "tables": tables}, indent=1).encode() + b"\n"
