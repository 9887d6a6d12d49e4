"""The words of XFORWARD (Postfix's XFORWARD_README), which the doors read and the remote courier writes.

Pure; never fails.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from lorrainemail.grammar.smtp import COMMAND_LINE, encode_xtext

#: What may be said.
ATTRIBUTES: Final = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
#: Characters of one value.
LONGEST_VALUE: Final = 255
#: Said of what is not known.
UNAVAILABLE: Final = "[UNAVAILABLE]"


def commands(origin: Mapping[str, str], offered: Collection[str]) -> list[str]:
    """The commands that say it, each within the length of a command line (RFC 5321 §4.5.3.1.4).

    :param offered: the attributes that the server names in its EHLO.
    """
    lines: list[str] = []
    line = "XFORWARD"
    for name in ATTRIBUTES:
        if name not in offered:
            continue
        word = f" {name}={encode_xtext(origin.get(name, '')[:LONGEST_VALUE] or UNAVAILABLE)}"
        if len(word) > COMMAND_LINE - 20:
            word = f" {name}={UNAVAILABLE}"
        if len(line) + len(word) > COMMAND_LINE - 2:
            lines.append(line)
            line = "XFORWARD"
        line += word
    if line != "XFORWARD":
        lines.append(line)
    return lines
