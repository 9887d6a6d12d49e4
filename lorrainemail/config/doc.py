"""How a setting is described: its sentence in the reference, its unit and bounds, the parser of its words."""

from __future__ import annotations

from typing import Any

MB = 10**6
HOUR = 3600
DAY = 86400

#: A setting's place in the file: table, key, and the index of a list's element.
KeyPath = tuple[str | int, ...]


def doc(text: str, **more: Any) -> dict[str, Any]:
    """Field metadata: the setting's sentence in the reference.

    ``unit`` is "size" or "duration"; ``least`` and ``most`` bound a number; ``kind`` names the parser in
    :mod:`lorrainemail.config.load` that every string of the setting goes through.
    """
    return {"doc": text, **more}
