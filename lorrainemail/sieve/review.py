"""Whether a script may be stored, and what its author should know all the same.

Called where scripts come in: ManageSieve and ``lorrainemail sieve``. Pure but for the library that it is
handed. Fails as :func:`~lorrainemail.sieve.language.compile_script` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lorrainemail.grammar.sieve import Node, parse
from lorrainemail.sieve.compiler import Library
from lorrainemail.sieve.language import compile_script

#: Warnings of one script that are told.
MAX_WARNINGS: Final = 20

#: Commands behind which nothing of the same block is reached.
_ENDS: Final = frozenset({"stop", "return", "break", "error"})


def review(script: bytes, library: Library) -> tuple[str, ...]:
    """The warnings of a script.

    :raises SieveError: where it is none.
    """
    missing: list[str] = []

    def read(where: str, name: str) -> bytes | None:
        octets = library(where, name)
        if octets is None:
            # RFC 6609 §3.2: scripts may be stored in any order.
            missing.append(f'there is no {where} script "{name[:60]}" to include yet')
            return b""
        return octets

    compile_script(script, read)
    warnings = list(dict.fromkeys(missing))
    _unreached(parse(script), warnings)
    return tuple(warnings[:MAX_WARNINGS])


def _unreached(nodes: Sequence[Node], warnings: list[str]) -> None:
    ended = ""
    for node in nodes:
        if ended:
            warnings.append(f'line {node.line}: "{node.name}" is never reached, it stands behind "{ended}"')
            return
        if node.block is not None:
            _unreached(node.block, warnings)
        if node.name in _ENDS:
            ended = node.name
