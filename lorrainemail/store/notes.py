"""What clients note about folders (RFC 5464), and to whom their owner gave rights (RFC 4314).

One small file a home, ``annotations.json``.

It is no cache and not in the index, whose loss does not lose it. Works on a
:class:`lorrainemail.store.tree.Tree` in its strand's jobs; a change is synced before it is answered. A file
that cannot be read is set aside, said aloud, and begun anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Final

from twisted.logger import Logger

from lorrainemail.store.failures import limit, nonexistent
from lorrainemail.store.folders import listing
from lorrainemail.store.paths import canonical_name
from lorrainemail.store.tree import Tree

#: Entries of one folder, octets of one value, octets of all of a home's annotations (RFC 5464 §4.3).
MAX_ENTRIES: Final = 200
MAX_VALUE: Final = 64 * 1024
MAX_ALL: Final = 4 << 20

#: What the rights of an identifier stand under, beside the entries, which begin with "/".
_ACL: Final = "acl:"

Notes = dict[str, dict[str, str]]

_log = Logger("lorrainemail.store")


def read(tree: Tree, name: str) -> dict[str, bytes]:
    """Entries (lower case) and values of a folder, of the account for ""."""
    name = _checked(tree, name)
    mine = _load(tree).get(name, {})
    return {entry: value.encode("latin-1") for entry, value in mine.items() if entry.startswith("/")}


def change(tree: Tree, name: str, entries: Mapping[str, bytes | None]) -> None:
    """Set entries; None removes one. All or none."""
    name = _checked(tree, name)
    notes = _load(tree)
    mine = dict(notes.get(name, {}))
    for entry, value in entries.items():
        if value is None:
            mine.pop(entry, None)
            continue
        if len(value) > MAX_VALUE:
            raise limit("annotation too large")
        mine[entry] = value.decode("latin-1")
    if len(mine) > MAX_ENTRIES:
        raise limit("too many annotations")
    notes[name] = mine
    _save(tree, notes)


def acl(tree: Tree, name: str) -> dict[str, str]:
    """Who was given which rights to a folder (RFC 4314): identifier → rights."""
    return _acl(_load(tree).get(_checked(tree, name), {}))


def acls(tree: Tree) -> dict[str, dict[str, str]]:
    """The same of all folders of which anybody was given some."""
    return {name: found for name, mine in _load(tree).items() if (found := _acl(mine))}


def set_acl(tree: Tree, name: str, identifier: str, rights: str) -> set[str]:
    """Give rights, "" for none; answers all identifiers that have any in the home."""
    name = _checked(tree, name)
    notes = _load(tree)
    mine = dict(notes.get(name, {}))
    mine.pop(_ACL + identifier, None)
    if rights:
        mine[_ACL + identifier] = rights
    if len(mine) > MAX_ENTRIES:
        raise limit("too many rights")
    notes[name] = mine
    _save(tree, notes)
    return {identifier for one in notes.values() for identifier in _acl(one)}


def _acl(mine: Mapping[str, str]) -> dict[str, str]:
    return {entry[len(_ACL) :]: rights for entry, rights in mine.items() if entry.startswith(_ACL)}


def forget(tree: Tree, name: str) -> None:
    """The folder is deleted."""
    notes = _load(tree)
    if notes.pop(canonical_name(name), None) is not None:
        _save(tree, notes)


def move(tree: Tree, old: str, new: str) -> None:
    """The folder, and all below it, have other names; INBOX keeps what is noted of it."""
    old, new = canonical_name(old), canonical_name(new)
    notes = _load(tree)
    if old == "INBOX":
        return
    moved = {
        (new + name[len(old) :] if name == old or name.startswith(old + "/") else name): mine
        for name, mine in notes.items()
    }
    if moved != notes:
        _save(tree, moved)


def _checked(tree: Tree, name: str) -> str:
    if not name:
        return ""
    name = canonical_name(name)
    if not any(folder.name == name for folder in listing(tree)):
        raise nonexistent(name)
    return name


def _path(tree: Tree) -> str:
    return f"{tree.home}/annotations.json"


def _load(tree: Tree) -> Notes:
    try:
        descriptor = os.open(_path(tree), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return {}
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(2 * MAX_ALL)
    try:
        notes = json.loads(data)
        return {
            str(name): {str(entry): str(value) for entry, value in mine.items()}
            for name, mine in notes.items()
        }
    except (ValueError, AttributeError, RecursionError) as error:
        _log.error("{path} cannot be read and is begun anew: {error}", path=_path(tree), error=error)
        tree.files.rename(_path(tree), _path(tree) + ".bad")
        return {}


def _save(tree: Tree, notes: Notes) -> None:
    data = json.dumps({name: mine for name, mine in notes.items() if mine}, indent=1).encode()
    if len(data) > MAX_ALL:
        raise limit("too many annotations")
    tree.replace_file(_path(tree), data, sync=True)
