"""Names on disk: accounts to home directories, folder names to Maildir++ directories and back.

The one encoder of the store: nothing else turns an address or a folder name into a path. Called by the store
for each home once and by homes for each folder. Invariants, shown by property tests: no address and no folder
name leaves its home, and two different ones never share a directory. Pure. Folder names that cannot be kept
fail as ``CANNOT`` (:mod:`lorrainemail.store.failures`).
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from lorrainemail.addresses import Address, fold_local
from lorrainemail.store.failures import cannot

#: Octets of one encoded component of a home's path; ext4, XFS and most others allow 255.
MAX_COMPONENT: Final = 200
#: Octets of a Maildir++ directory name, with its leading dot.
MAX_FOLDER_DIRECTORY: Final = 240
#: Levels of a folder's name.
MAX_DEPTH: Final = 24

_PLAIN: Final = re.compile(rb"[a-z0-9._+-]")
_KEPT_WHEN_CUT: Final = 150
#: Characters that never stand for themselves in a directory name, beside what RFC 3501 §5.1.3 encodes.
_SPECIAL: Final = frozenset("./:")
_SHIFTED: Final = re.compile(r"&([A-Za-z0-9+,]*)-")


def encode_component(text: str) -> str:
    """A path component for any text: ``[a-z0-9._+-]`` as they are, all else percent-encoded, no leading dot.

    A result over :data:`MAX_COMPONENT` is cut and marked with a digest ("%-" appears nowhere else).
    """
    raw = text.encode("utf-8", "surrogatepass")
    if not raw:
        return "%_"
    encoded = "".join(
        chr(octet)
        if _PLAIN.match(bytes((octet,))) and not (octet == 0x2E and index == 0)
        else f"%{octet:02x}"
        for index, octet in enumerate(raw)
    )
    if len(encoded) > MAX_COMPONENT:
        kept = encoded[:_KEPT_WHEN_CUT]
        tail = kept.rfind("%", _KEPT_WHEN_CUT - 2)
        if tail >= 0:
            kept = kept[:tail]
        return f"{kept}%-{hashlib.sha256(raw).hexdigest()[:40]}"
    return encoded


def home_path(address: Address) -> str:
    """Where an account's home is, relative to the mail directory: ``<domain>/<local>``."""
    return f"{encode_component(address.domain)}/{encode_component(fold_local(address.local))}"


def encode_utf7(text: str, special: frozenset[str] = frozenset()) -> str:
    """Modified UTF-7 (RFC 3501 §5.1.3); characters of ``special`` are shifted too."""
    out: list[str] = []
    shifted: list[str] = []

    def flush() -> None:
        if shifted:
            raw = "".join(shifted).encode("utf-16-be", "surrogatepass")
            out.append("&" + base64.b64encode(raw).decode("ascii").rstrip("=").replace("/", ",") + "-")
            shifted.clear()

    for character in text:
        if " " <= character <= "~" and character not in special:
            flush()
            out.append("&-" if character == "&" else character)
        else:
            shifted.append(character)
    flush()
    return "".join(out)


def decode_utf7(text: str) -> str | None:
    """The text behind modified UTF-7, None where it is malformed."""
    if not text.isascii():
        return None
    out: list[str] = []
    position = 0
    while True:
        start = text.find("&", position)
        if start < 0:
            out.append(text[position:])
            return "".join(out)
        out.append(text[position:start])
        match = _SHIFTED.match(text, start)
        if match is None:
            return None
        coded = match.group(1).replace(",", "/")
        if not coded:
            out.append("&")
        else:
            try:
                raw = base64.b64decode(coded + "=" * (-len(coded) % 4), validate=True)
                out.append(raw.decode("utf-16-be"))
            except (ValueError, UnicodeDecodeError):
                return None
        position = match.end()


def canonical_name(name: str) -> str:
    """A folder's name in its one form: INBOX in capitals, no trailing separator.

    :raises PermanentError: ``CANNOT`` where no folder can have that name.
    """
    if name.endswith("/"):
        name = name[:-1]
    parts = name.split("/")
    if parts[0].upper() == "INBOX":
        parts[0] = "INBOX"
    if not all(parts) or len(parts) > MAX_DEPTH:
        raise cannot("no such folder name is possible: an empty level, or too many of them")
    for part in parts:
        if any(
            c < " " or "\x7f" <= c <= "\x9f" or "\ud800" <= c <= "\udfff" or c in "\u2028\u2029" for c in part
        ):
            raise cannot("control characters cannot be in a folder's name")
    name = "/".join(parts)
    if len(folder_directory(name)) > MAX_FOLDER_DIRECTORY:
        raise cannot("the folder's name is too long")
    return name


def folder_directory(name: str) -> str:
    """The Maildir++ directory of a canonical folder name, "" for INBOX (the Maildir itself)."""
    if name == "INBOX":
        return ""
    return "." + ".".join(encode_utf7(part, _SPECIAL) for part in name.split("/"))


def folder_name(directory: str) -> str | None:
    """The folder's name behind a Maildir++ directory, None where no name of ours leads there."""
    if not directory.startswith(".") or len(directory) > MAX_FOLDER_DIRECTORY:
        return None
    parts = [decode_utf7(part) for part in directory[1:].split(".")]
    if not all(parts):
        return None
    name = "/".join(part for part in parts if part is not None)
    try:
        name = canonical_name(name)
    except Exception:
        return None
    return name if folder_directory(name) == directory else None
