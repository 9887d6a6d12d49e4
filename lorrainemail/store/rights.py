"""The rights of access control lists (RFC 4314): letters, what stands for what, who has which. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lorrainemail.errors import PermanentError, Reply

#: RFC 4314 §2.1, in the order of its table.
ALL: Final = "lrswipkxtea"
#: RFC 4314 §2.1.1: letters of RFC 2086 and what they mean now.
_OLD: Final = {"c": "k", "d": "xte"}
#: Everybody who can log in.
ANYONE: Final = "anyone"
#: Rights without which a mailbox is only read.
WRITING: Final = frozenset("swite")


def parse_rights(text: str) -> str | None:
    """Rights in our order, each once; None where a letter is no right."""
    given = "".join(_OLD.get(letter, letter) for letter in text)
    if not set(given) <= set(ALL):
        return None
    return "".join(letter for letter in ALL if letter in given)


def shown(rights: str) -> str:
    """As a client sees them: with the old letters where it may know only those (RFC 4314 §2.1.1)."""
    old = ("c" if "k" in rights else "") + ("d" if set(rights) & set("xte") else "")
    return rights + old


def changed(before: str, change: str) -> str | None:
    """``+rights``, ``-rights`` or new ones (RFC 4314 §3.1); None where they are malformed."""
    sign = change[:1] if change[:1] in ("+", "-") else ""
    given = parse_rights(change[len(sign) :])
    if given is None:
        return None
    if sign == "+":
        return parse_rights(before + given)
    if sign == "-":
        return "".join(letter for letter in before if letter not in given)
    return given


def rights_of(acl: Mapping[str, str], user: str) -> str:
    """What a user may who is not the owner; identifiers with "-" take away (RFC 4314 §2)."""
    given = set(acl.get(user, "")) | set(acl.get(ANYONE, ""))
    taken = set(acl.get("-" + user, "")) | set(acl.get("-" + ANYONE, ""))
    return "".join(letter for letter in ALL if letter in given - taken)


def refused() -> PermanentError:
    """The user may not do that."""
    return PermanentError(Reply(550, "5.7.1", "You have no right to do that"), "NOPERM")
