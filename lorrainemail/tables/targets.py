"""What aliases lead to: the list of targets behind a name, as aliases(5), virtual(5) and lists have it.

A target is an address (also as ``Name <address>`` and with comments in brackets), a bare user, ``\\user`` (no
further alias), ``@domain`` (the same user there), ``|command``, ``/file`` or ``:include:/file``. Pure. Called
by the parsers of the table files, of lists and of users' own files; fails with ValueError, whose text has
what to do behind a semicolon.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from lorrainemail.addresses import Address, AddressError, normalise_domain, parse_address
from lorrainemail.errors import Origin, Reply
from lorrainemail.tables.backend import AliasTarget

#: Targets of one alias; a larger list is a mailing list.
MAX_TARGETS: Final = 5000

_WHOLE: Final = re.compile(r'"((?:[^"\\]|\\.)*)"\Z')
_ANGLE: Final = re.compile(r"<([^<>]*)>\Z")
_ENHANCED: Final = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})\Z")
#: Sendmail's words for an error, and what they mean (RFC 3463).
_ERRORS: Final = {
    "nouser": "5.1.1",
    "nohost": "5.1.2",
    "unavailable": "5.7.0",
    "noperm": "5.7.1",
    "tempfail": "4.3.0",
    "usage": "5.5.4",
    "protocol": "5.5.0",
    "config": "5.3.5",
}


def parse_targets(text: str, origin: Origin | None = None) -> tuple[AliasTarget, ...]:
    """The targets between commas.

    :param origin: where they stand, for those that do not stand beside their alias.
    """
    found: list[AliasTarget] = []
    for word in parted(text):
        found.append(_of_word(word, origin))
        if len(found) > MAX_TARGETS:
            raise ValueError(f"more than {MAX_TARGETS} targets; split the list")
    return tuple(found)


def parted(text: str) -> Iterator[str]:
    """The words between commas that stand outside of quotation marks and brackets; comments are left out."""
    word: list[str] = []
    depth, quoted, escaped = 0, False, False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\" and (quoted or depth):
            escaped = True
        elif character == '"' and not depth:
            quoted = not quoted
        elif character == "(" and not quoted and not _is_word(word):
            depth += 1
        elif character == ")" and depth:
            depth -= 1
            continue
        elif character == "," and not quoted and not depth:
            if "".join(word).strip():
                yield "".join(word).strip()
            word = []
            continue
        if not depth:
            word.append(character)
    if quoted:
        raise ValueError("a quotation mark is not closed; close it")
    if depth:
        raise ValueError("a bracket is not closed; close it")
    if "".join(word).strip():
        yield "".join(word).strip()


def _is_word(word: list[str]) -> bool:
    """Whether it has begun as a command or a file, in which brackets are no comments."""
    return "".join(word).lstrip()[:1] in ("|", "/")


def _of_word(word: str, origin: Origin | None) -> AliasTarget:
    quoted = _WHOLE.match(word)
    if quoted is not None:
        return _target(unquoted(quoted.group(1)), True, origin)
    if word.startswith('|"') and (command := _WHOLE.match(word[1:])) is not None:
        return _target("|" + unquoted(command.group(1)), True, origin)
    if not word.startswith(("|", "/", ":")) and (angle := _ANGLE.search(word)) is not None:
        return _target(angle.group(1).strip(), False, origin)
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", word)
    if re.search(r"\s", outside):
        if "#" in outside:
            raise ValueError("a comment after a target; put it on a line of its own")
        raise ValueError(f'"{word[:40]}" is several words; part targets by commas')
    return _target(word, False, origin)


def unquoted(text: str) -> str:
    """What stands between quotation marks, its backslashes undone."""
    return re.sub(r"\\(.)", r"\1", text)


def _target(word: str, quoted: bool, origin: Origin | None) -> AliasTarget:
    if word.startswith("|"):
        return AliasTarget("command", word, origin=origin)
    if word.startswith("/"):
        return AliasTarget("file", word, origin=origin)
    if word.lower().startswith(":include:"):
        path = word[len(":include:") :].strip()
        if not path.startswith("/"):
            raise ValueError(f'"{word}" has no path from the root; write :include:/path/to/list')
        return AliasTarget("include", ":include:" + path, origin=origin)
    if word.startswith(":"):
        raise ValueError(f'"{word}" is no target; write an address')
    try:
        if word.startswith("@"):
            return AliasTarget("domain", word, Address("", normalise_domain(word[1:])), origin)
        if word.startswith("\\"):
            return AliasTarget("mailbox", word, _bare(word[1:]), origin)
        if quoted and "@" not in word:
            if not word.isprintable() or not word:
                raise ValueError("a name is empty or has a control character; remove it")
            return AliasTarget("user", word, Address(word, ""), origin)
        if "@" in word:
            return AliasTarget("address", word, parse_address(word), origin)
        return AliasTarget("user", word, _bare(word), origin)
    except AddressError as error:
        raise ValueError(f'"{word}": {error}; write user or user@domain') from None


def _bare(word: str) -> Address:
    return Address(parse_address(word + "@x.invalid").local, "")


def error_target(text: str) -> AliasTarget:
    """Sendmail's ``error:code words``: those who write there are told so."""
    code, _, words = text.partition(":")[2].strip().partition(" ")
    enhanced, colon, number = code.partition(":")
    if colon and number.isdigit():
        words = f"{number} {words}"
    known = _ERRORS.get(enhanced.lower(), enhanced)
    if not _ENHANCED.match(known) or known.startswith("2"):
        raise ValueError(f'"{code}" is no error; write error:5.1.1 and the words')
    words = re.sub(r"^[45]\d\d\s+(?:[45]\.\d+\.\d+\s+)?", "", words.strip().strip('"')).strip()
    if not words.isprintable():
        raise ValueError("the words have a control character; remove it")
    reply = Reply(550 if known.startswith("5") else 450, known, words[:400] or "Not deliverable")
    return AliasTarget("reply", text, reply=reply)
