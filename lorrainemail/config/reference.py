"""The configuration reference, made from the types in :mod:`lorrainemail.config.model`.

``docs/configuration.rst`` is this text; ``python -m lorrainemail.config.reference`` prints it anew and a test
keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, get_args, get_origin

import attrs

from lorrainemail.config.model import DeliverRow, FilterRow, RelayRow, Settings

_HEAD: Final = """\
=============
Configuration
=============

.. This file is made from the types in lorrainemail/config/model.py by
   "python -m lorrainemail.config.reference > docs/configuration.rst". Do not edit it.

One file in TOML, ``lorrainemail.toml``. It is looked for at ``--config``; else in the directory given by
``--state``; else it is ``/etc/lorrainemail/lorrainemail.toml``; else the embedded default is used, in
``./lorrainemail-state``. Everything the server keeps is in one state directory: ``--state``, else ``state``
in the file, else ``/var/lib/lorrainemail``. Paths in the file are relative to the state directory (``state``
itself to the file's own directory).

``lorrainemail check`` names every error with its line, and every row that is shadowed, useless or dangerous.
SIGHUP loads the file anew; a file with an error is refused whole. A change of ``state``, ``hostname`` or
``[listen]`` needs a restart.

Sizes are written with their unit, ``"50 MB"`` (10\\ :sup:`6`) or ``"64 MiB"`` (2\\ :sup:`20`); durations as
``"30s"``, ``"5m"``, ``"4h"``, ``"5d"``.
"""

_RELAY: Final = """\
Relay rows
==========

The key of a row in ``[relay]`` (matched with the recipient) or ``[relay_by_sender]`` (with the sender;
``"<>"`` for the null one) is a pattern. The most specific wins, whatever the order of the rows:

1. a whole address, ``"bob@free.fr"``: it alone also overrides ``local_domains``;
2. a domain, ``"free.fr"`` or ``"*@free.fr"``;
3. the longest suffix, ``"*.free.fr"``: free.fr itself and all below it;
4. ``"*"``.

Where no row matches, the DNS (MX) says where mail goes. A row never grants the right to relay: that is given
by ``relay_networks`` and by logging in.

``[unknown_users]`` has rows of the same form: its patterns are of local domains, and its hosts get those of
their users that are neither accounts nor aliases here.

The value is a host, ``"smtp.free.fr"`` or ``"smtp.free.fr:587"``; a list of hosts, tried in order; ``"mx"``,
to ask the DNS as if no row matched; or a table with the settings below.
"""

_ACTIONS: Final = """\
Actions
=======

``[actions]`` says what is done with the verdict of a check, for everybody, for a domain, or for an account;
the most particular word holds, and without one the check's own judgement::

    [actions]
    greylist = "refuse"
    dns_lists = "junk"
    "example.org" = { dns_lists = "refuse" }
    "bob@bricoleur.com" = { greylist = "off" }

``"off"``: the check is not asked. ``"log"``: its verdict stands in the trace alone. ``"tag"``: and in the
field X-Lorrainemail-Policy. ``"junk"``: the message goes to Junk. ``"refuse"``: it is refused, or deferred
where that is what the check wants. Where recipients of one message want different things, it is refused only
if all of them want that, and goes to Junk for those who do. Off until a word stands here: ``greylist``,
``reverse_name``, ``helo_name`` and ``classifier``. Filters are checks, too, under their names.
"""

_FILTERS: Final = """\
Filter rows
===========

Each ``[filters.NAME]`` is a program that is asked about finished messages, after the checks::

    [filters.virus]
    kind = "clamav"
    address = "unix:/run/clamav/clamd.ctl"
    fail = "closed"
"""

_DELIVER: Final = """\
Rows of [deliver]
=================

Mail for local domains lies in this server's own mailboxes. A row of ``[deliver]`` gives it to somebody
else: to the LMTP door of another server (``"*" = "lmtp:unix:/run/dovecot/lmtp"`` for all local domains), to
a command, to a file, or to a plugin's courier. The key is a pattern as in ``[relay]``, of a local domain or
address; aliases come before it. The value is ``"courier:argument"``, or a table with the settings below.
"""

_FILES: Final = """\
Files that commands change
==========================

These are text files in the state directory, edited by hand or by command, and seen without a restart. A file
that vanished, became empty, does not parse whole or lost more than half of its rows keeps its old version,
and an alarm is raised until it is mended, or confirmed with ``lorrainemail check --confirm``.

``domains``
    Local domains besides ``local_domains``, one a line.
``accounts``
    Dovecot passwd-file lines, ``user@domain:{ARGON2ID}hash::::::`` and extra fields: ``nologin=y``,
    ``userdb_mail=maildir:~/Maildir`` or ``mbox:~/mbox``, ``userdb_quota_rule=*:storage=1G``,
    ``credential=LABEL:{SCHEME}hash`` for further passwords, ``send_as=address,@domain``.
``aliases``
    As in aliases(5). ``user@domain:``, ``prefix-*@domain:``, ``*-suffix:`` and ``@domain:`` (everybody else
    of a domain) are keys too; ``owner-NAME`` gets what cannot be delivered to the members of ``NAME``. A
    target is an address, a user, ``\\user`` (no further alias), ``@domain`` (the same user there),
    ``:include:/file``, ``"|/program with arguments"`` or ``/file``.
``credentials``
    Mode 0600. ``name user secret``, for relay rows with ``credentials = "name"``.
"""


def reference() -> str:
    """The whole reference in reStructuredText."""
    top, tables = [], []
    for field in _fields(Settings):
        if attrs.has(field.type or str):
            tables.append(field)
        elif "doc" in field.metadata:
            top.append(field)
    parts = [_HEAD, _title("At the top of the file"), *map(_setting, top)]
    for field in tables:
        parts.append(_title(f"[{field.name}]"))
        parts += [_paragraph(field.type)] if field.name in ("listen", "aliases", "commands") else []
        parts += [_setting(inner) for inner in _fields(field.type)]
    parts += [_RELAY, *(_setting(field) for field in _fields(RelayRow) if "doc" in field.metadata)]
    parts += [_DELIVER, *(_setting(field) for field in _fields(DeliverRow) if "doc" in field.metadata)]
    parts += [_ACTIONS, _FILTERS, *(_setting(field) for field in _fields(FilterRow))]
    return "\n".join([*parts, _FILES])


def _fields(cls: Any) -> tuple[attrs.Attribute[Any], ...]:
    """Fields with their real types."""
    attrs.resolve_types(cls)
    return tuple(attrs.fields(cls))


def _title(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"


def _paragraph(cls: Any) -> str:
    return f"{cls.__doc__}\n"


def _setting(field: attrs.Attribute[Any]) -> str:
    """A definition: name, kind, default; the sentence; the bounds."""
    words = "; ".join(_facts(field))
    return f"``{field.name}`` ({words})\n    {_sentence(field.metadata['doc'])}\n"


def _sentence(doc: str) -> str:
    return doc[:1].upper() + doc[1:] + "."


def _facts(field: attrs.Attribute[Any]) -> Iterator[str]:
    yield _kind(field)
    if get_origin(field.type) is not dict:
        default = _shown(field.default, field.metadata.get("unit"))
        if default:
            yield f"default {default}"
    unit = field.metadata.get("unit")
    if "least" in field.metadata:
        least, most = (_shown(field.metadata[word], unit) for word in ("least", "most"))
        yield f"from {least} to {most}"


def _kind(field: attrs.Attribute[Any]) -> str:
    kind: Any = field.type
    words = {str: "text", bool: "true or false", int: "number"}
    unit = field.metadata.get("unit")
    if get_origin(kind) is dict:
        return str(field.metadata.get("table", "table of relay rows"))
    if get_origin(kind) is tuple:
        return f"list of {unit}s" if unit else "list"
    if get_origin(kind) is Literal:
        return " or ".join(f'``"{choice}"``' for choice in get_args(kind))
    return unit or words[kind]


def _shown(value: Any, unit: str | None) -> str:
    """A value as it is written in TOML, "" for none."""
    if isinstance(value, tuple):
        return f"``[{', '.join(_shown(v, unit).strip('`') for v in value)}]``"
    if isinstance(value, bool):
        return f"``{str(value).lower()}``"
    if isinstance(value, str):
        return f'``"{value}"``' if value else ""
    if unit == "duration":
        return f'``"{_with_unit(value, ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")))}"``'
    if unit == "size":
        steps = ((2**40, " TiB"), (10**9, " GB"), (2**20, " MiB"), (10**6, " MB"), (1000, " KB"), (1, " B"))
        return f'``"{_with_unit(value, steps)}"``'
    return f"``{value}``"


def _with_unit(value: int, steps: tuple[tuple[int, str], ...]) -> str:
    for step, name in steps:
        if value >= step and value % step == 0:
            return f"{value // step}{name}"
    return f"{value}{steps[-1][1]}"


if __name__ == "__main__":
    print(reference(), end="")
