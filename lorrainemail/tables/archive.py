"""Whose mail is copied to an archive: rows of ``[archive]``.

Pure. Intake asks :meth:`Archive.of` for each message that comes in by a door, where the operator has such
rows; what the server itself writes is not copied. A copy is one more recipient, without notices: it never
decides what the sender is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lorrainemail.addresses import Address, parse_address
from lorrainemail.tables.route import NULL_SENDER, patterns_of

#: What may stand before a pattern, and how.
FROM = "from:"
TO = "to:"


class Archive:
    """The rows.

    :param rows: addresses by pattern, with ``from:`` or ``to:`` before it where it is of senders or of
        recipients alone.
    """

    def __init__(self, rows: Mapping[str, str]) -> None:
        self._rows = {pattern: parse_address(address) for pattern, address in rows.items()}

    def of(self, sender: Address | None, recipients: Iterable[Address]) -> tuple[Address, ...]:
        """The archives that get a copy, none twice: by the most specific row of sender and each recipient."""
        found: dict[str, Address] = {}
        for who, address in ((FROM, sender), *((TO, recipient) for recipient in recipients)):
            for pattern in patterns_of(address):
                if pattern == NULL_SENDER:
                    continue
                archive = self._rows.get(who + pattern) or self._rows.get(pattern)
                if archive is not None:
                    found.setdefault(archive.key, archive)
                    break
        return tuple(found.values())
