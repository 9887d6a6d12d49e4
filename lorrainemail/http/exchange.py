"""One request and its answer as values, without any transport.

:mod:`lorrainemail.http.door` makes a :class:`Question` of what came in and writes the :class:`Answer`; pages
    are functions between the two. Nothing of a question can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import attrs

PLAIN: Final = "text/plain; charset=utf-8"
XML: Final = "text/xml; charset=utf-8"
JSON: Final = "application/json; charset=utf-8"


@attrs.frozen(slots=True)
class Question:
    """A request.

    :ivar host: of the Host field, lower case, without port and final dot; "" where there is none.
    :ivar path: percent-decoded.
    :ivar query: the first value of each name, names in lower case: programs do not agree about their case.
    :ivar secure: by TLS here, or from a listener that only a proxy of this machine reaches.
    """

    method: str
    host: str
    path: str
    query: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    secure: bool = True


class Answer(NamedTuple):
    """A response; ``more`` are further header fields."""

    status: int
    content_type: str = PLAIN
    body: bytes = b""
    more: tuple[tuple[str, str], ...] = ()


NOT_FOUND: Final = Answer(404, PLAIN, b"There is nothing here.\n")
BAD_REQUEST: Final = Answer(400, PLAIN, b"This request cannot be understood.\n")


def wrong_method(*allowed: str) -> Answer:
    """RFC 9110 §15.5.6."""
    return Answer(405, PLAIN, b"Not this method.\n", (("Allow", ", ".join(allowed)),))
