"""Reports that came as parts of a message: what may be one, and whether DMARC proved who sent it."""

from __future__ import annotations

import re
from collections.abc import Collection
from email.parser import BytesParser
from email.policy import compat32
from typing import Any, Final

from lorrainemail.mailauth.authres import is_by

#: Parts of a message that are looked at.
MAX_PARTS: Final = 50

_PROVED = re.compile(r"\bdmarc=pass\b")


def report_parts(
    octets: bytes, hostname: str, kinds: Collection[str], endings: tuple[str, ...], largest: int
) -> tuple[list[bytes], bool]:
    """The decoded parts of those content types, or with file names that end so, in their order; and whether
    DMARC proved the message's author. Blocks.

    :param hostname: our name, whose Authentication-Results count.
    :param largest: octets of a part; larger ones are left out.
    """
    message = BytesParser(policy=compat32).parsebytes(octets)
    proved = False
    for value in message.get_all("Authentication-Results", []):
        text = str(value)
        if is_by(text.encode("utf-8", "replace"), hostname):
            proved = _PROVED.search(text) is not None
            break
    found = []
    for number, part in enumerate(message.walk()):
        if number >= MAX_PARTS:
            break
        if part.is_multipart():
            continue
        if part.get_content_type() in kinds or str(part.get_filename() or "").lower().endswith(endings):
            payload: Any = part.get_payload(decode=True)
            if isinstance(payload, bytes) and 0 < len(payload) <= largest:
                found.append(payload)
    return found, proved
