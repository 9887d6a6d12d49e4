"""What a command learns of the mail: a few variables, of harmless characters alone.

Whatever an outsider chose (sender, local part, detail) may end in a script: characters that a shell or a
program could take for more than text become ``_``, as in Postfix's command_expansion_filter, and no value
begins with a dash. Nothing of the server's own environment is passed on. Pure.
"""

from __future__ import annotations

import re
from typing import Final

from lorrainemail.addresses import Address
from lorrainemail.envelope import Envelope, Recipient

#: Where commands find programs.
PATH: Final = "/usr/local/bin:/usr/bin:/bin"
#: Characters of a value.
MAX_VALUE: Final = 320

_HARMFUL: Final = re.compile(r"[^A-Za-z0-9!@%_=+:,./-]")


def clean(value: str) -> str:
    """A value that any program can be handed."""
    value = _HARMFUL.sub("_", value[:MAX_VALUE])
    return "_" + value[1:] if value.startswith("-") else value


def variables(envelope: Envelope, recipient: Recipient, separators: str, queue_id: str) -> dict[str, str]:
    """The variables, as Postfix's local(8) and qmail's qmail-command(8) name them."""
    address = recipient.address
    user, extension = split(address, separators)
    sender = "" if envelope.sender is None else str(envelope.sender)
    known = {
        "SENDER": sender,
        "RECIPIENT": str(address),
        "ORIGINAL_RECIPIENT": recipient.original or str(address),
        "LOCAL": address.local,
        "DOMAIN": address.domain,
        "HOST": address.domain,
        "USER": user,
        "LOGNAME": user,
        "EXTENSION": extension,
        "EXT": extension,
        "MESSAGE_ID": queue_id,
    }
    cleaned = {name: clean(value) for name, value in known.items()}
    return {"PATH": PATH, "LANG": "C.UTF-8", "SHELL": "/bin/sh", **cleaned}


def split(address: Address, separators: str) -> tuple[str, str]:
    """User and detail, at the first separator."""
    places = [at for at in range(1, len(address.local)) if address.local[at] in separators]
    if not places:
        return address.local, ""
    return address.local[: places[0]], address.local[places[0] + 1 :]
