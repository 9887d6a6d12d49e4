"""What scripts do with the message: keep, fileinto, redirect, discard (RFC 5228 §4, copy of RFC 3894), reject
and ereject (RFC 5429), flags (RFC 5232), header edits (RFC 5293).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, cast

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.grammar.sieve import Node
from lorrainemail.sieve.compiler import MATCH_TAGS, MATCH_TYPES, VARIABLE_NAME, Compiler, Form, Given, Tagged
from lorrainemail.sieve.effects import FileInto, Keep, Redirect, Reject
from lorrainemail.sieve.message import MAX_FIELD
from lorrainemail.sieve.run import Action, Check, Run, RunError, Text
from lorrainemail.sieve.tests import is_field_name

#: Flags of one message (RFC 5232 §2 sets no limit), characters of one.
MAX_FLAGS: Final = 64
MAX_FLAG: Final = 100
#: Characters of a rejection's text.
MAX_REASON: Final = 4000
#: Characters of a folder's name.
MAX_FOLDER: Final = 1000

_SYSTEM_FLAGS: Final = {
    "\\answered": "\\Answered",
    "\\flagged": "\\Flagged",
    "\\deleted": "\\Deleted",
    "\\seen": "\\Seen",
    "\\draft": "\\Draft",
}
# RFC 3501 §9 flag-keyword: an atom.
_KEYWORD = re.compile(r"[^\x00-\x20\x7f(){%*\"\\\]]+\Z")
#: RFC 5293 §5, §6: not to be deleted (or added, where that would lie about the way of the message, or say
#: that it is somebody else's: what is redirected leaves by us).
_PROTECTED: Final = frozenset(
    {"received", "auto-submitted", "from", "sender", "resent-from", "resent-sender"}
)


# -- flags ----------------------------------------------------------------------------------------------


def split_flags(texts: Sequence[str]) -> tuple[str, ...]:
    """Flags in a list of strings, each once, malformed ones left out (RFC 5232 §2)."""
    found: dict[str, str] = {}
    for text in texts:
        for word in text.split():
            if word.startswith("\\"):
                flag = _SYSTEM_FLAGS.get(word.lower())
                if flag is None:
                    continue
            elif len(word) > MAX_FLAG or not word.isascii() or not _KEYWORD.match(word):
                continue
            else:
                flag = word
            found.setdefault(flag.lower(), flag)
            if len(found) >= MAX_FLAGS:
                return tuple(found.values())
    return tuple(found.values())


def flags_of(run: Run, given: Given) -> tuple[str, ...]:
    """What keep and fileinto set: :flags, else the internal variable."""
    flags = given.get("flags")
    return run.flags if flags is None else split_flags(run.texts(flags))


def _flag_variable(compiler: Compiler, node: Node, name: Text) -> str:
    constant = compiler.constant(node, name, "a variable's name").lower()
    compiler.need(node, "variables", "a variable for flags")
    if not VARIABLE_NAME.match(constant):
        compiler.fail(node, f'"{constant[:60]}" is no variable\'s name')
    return constant


def _change_flags(compiler: Compiler, node: Node, given: Given) -> Action:
    """setflag, addflag, removeflag (RFC 5232 §3)."""
    operation = node.name
    variable = (
        _flag_variable(compiler, node, _single(compiler, node, given)) if len(given.values) == 2 else ""
    )
    wanted = given.values[-1]

    def change(run: Run) -> None:
        flags = split_flags(run.texts(wanted))
        old = split_flags([run.variable(variable)]) if variable else run.flags
        if operation == "addflag":
            flags = split_flags([*old, *flags])
        elif operation == "removeflag":
            gone = {flag.lower() for flag in flags}
            flags = tuple(flag for flag in old if flag.lower() not in gone)
        if variable:
            run.set_variable(variable, " ".join(flags))
        else:
            run.flags = flags
        run.note(f"{operation}: now {' '.join(flags) or 'no flags'}")

    return change


def _single(compiler: Compiler, node: Node, given: Given) -> Text:
    names = given.values[0]
    if len(names) != 1:
        compiler.fail(node, "one variable's name is wanted here")
    return cast(Text, names[0])


def _hasflag(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5232 §4."""
    variables = (
        [_flag_variable(compiler, node, name) for name in given.values[0]] if len(given.values) == 2 else []
    )
    keys = given.values[-1]
    constants = [flag for key in keys if isinstance(key, str) for flag in key.split()] or [""]
    templates = [key for key in keys if not isinstance(key, str)]
    if next((tag for tag in given.tags if tag in MATCH_TYPES), "is") in (
        "count",
        "value",
        "matches",
        "regex",
    ):
        constants = [key for key in keys if isinstance(key, str)]
    elif templates and constants == [""]:
        constants = []
    matching = compiler.matching(node, given, [*constants, *templates])

    def values(run: Run) -> list[str]:
        if not variables:
            return list(run.flags)
        return [flag for name in variables for flag in split_flags([run.variable(name)])]

    return lambda run: matching.any(run, values(run))


# -- where the message goes -----------------------------------------------------------------------------


def _keep(compiler: Compiler, node: Node, given: Given) -> Action:
    def keep(run: Run) -> None:
        flags = flags_of(run, given)
        run.implicit = False
        run.add(Keep(flags, run.version()))
        run.note("keep" + _with_flags(flags))

    return keep


def _discard(compiler: Compiler, node: Node, given: Given) -> Action:
    def discard(run: Run) -> None:
        run.implicit = False
        run.note("discard")

    return discard


def folder_name(run: Run, name: str) -> str:
    """A folder's name as the store takes it (RFC 5228 §4.1)."""
    if not name or len(name) > MAX_FOLDER or any(c < " " or c == "\x7f" for c in name):
        raise RunError("no folder can have that name")
    return "INBOX" if name.upper() == "INBOX" else name


def with_special_use(run: Run, use: Text | None, name: str) -> tuple[str, bool]:
    """RFC 8579 §4: the folder of that special use where there is one, else the named one; whether found."""
    if use is None:
        return name, False
    wanted = run.text(use).lower()
    for folder, uses in run.context.folders.items():
        if wanted in uses:
            return folder, True
    return name, False


def fileinto_of(run: Run, given: Given, name: Text, flags: tuple[str, ...]) -> FileInto:
    """What fileinto (and :fcc) comes to."""
    folder, _ = with_special_use(run, given.get("specialuse"), folder_name(run, run.text(name)))
    return FileInto(folder, flags, "create" in given, run.version())


def _fileinto(compiler: Compiler, node: Node, given: Given) -> Action:
    (name,) = given.values
    if "specialuse" in given:
        compiler.shared.needs.add("folders")
    if isinstance(name, str) and not name:
        compiler.fail(node, "a folder's name is empty")

    def fileinto(run: Run) -> None:
        effect = fileinto_of(run, given, name, flags_of(run, given))
        if "copy" not in given:
            run.implicit = False
        run.add(effect)
        create = ", made where it is missing" if effect.create else ""
        run.note(f'fileinto "{effect.folder}"{_with_flags(effect.flags)}{create}')

    return fileinto


def _with_flags(flags: Sequence[str]) -> str:
    return f" with {' '.join(flags)}" if flags else ""


def _redirect(compiler: Compiler, node: Node, given: Given) -> Action:
    (target,) = given.values
    if isinstance(target, str):
        try:
            _address(target)
        except AddressError as error:
            compiler.fail(node, f'"{target[:100]}" is no address to redirect to: {error}')

    def redirect(run: Run) -> None:
        text = run.text(target)
        try:
            address = _address(text)
        except AddressError as error:
            raise RunError(f'"{text[:100]}" is no address to redirect to: {error}') from None
        if "copy" not in given:
            run.implicit = False
        run.add(Redirect(address, run.version()))
        run.note(f"redirect to {address}")

    return redirect


def _address(text: str) -> Address:
    """An address alone, perhaps in angle brackets with a name before (RFC 5228 §2.4.2.3)."""
    text = text.strip()
    if text.endswith(">") and "<" in text:
        text = text[text.rindex("<") + 1 : -1]
    return parse_address(text)


def _reject(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 5429 §2."""
    (reason,) = given.values
    kind = cast(Literal["reject", "ereject"], node.name)

    def reject(run: Run) -> None:
        text = run.text(reason)[:MAX_REASON]
        run.add(Reject(kind, text))
        run.implicit = False
        run.note(f"{kind}: {' '.join(text.split())[:200]}")

    return reject


# -- header edits ---------------------------------------------------------------------------------------


def _field_name(compiler: Compiler, node: Node, name: Text) -> None:
    if isinstance(name, str) and not is_field_name(name):
        compiler.fail(node, f'"{name[:60]}" is no header field name')


def _addheader(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 5293 §4."""
    name, value = given.values
    _field_name(compiler, node, name)

    def addheader(run: Run) -> None:
        field, text = run.text(name), run.text(value)
        if not is_field_name(field):
            raise RunError(f'"{field[:60]}" is no header field name')
        if len(text) > MAX_FIELD:
            raise RunError("the header field is too long")
        if field.lower() in _PROTECTED:
            run.note(f"addheader: {field} stays as it is")
            return
        run.work.spend(len(run.message.header) >> 4)
        run.message.add(field, text, "last" in given)
        run.note(f"addheader {field}")

    return addheader


def _deleteheader(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 5293 §5."""
    name = given.values[0]
    patterns = given.values[1] if len(given.values) > 1 else None
    _field_name(compiler, node, name)
    if "last" in given and "index" not in given:
        compiler.fail(node, ":last needs :index")
    index: int = given.get("index", 0)
    if "index" in given and not 1 <= index <= 1 << 31:
        compiler.fail(node, ":index counts from 1")
    matching = None if patterns is None else compiler.matching(node, given, patterns)
    if matching is not None and matching.match.kind == "count":
        compiler.fail(node, '"deleteheader" does not know :count')

    def deleteheader(run: Run) -> None:
        field = run.text(name)
        if not is_field_name(field):
            raise RunError(f'"{field[:60]}" is no header field name')
        if field.lower() in _PROTECTED:
            run.note(f"deleteheader: {field} stays as it is")
            return
        count = len(run.message.raw(field))
        place = -1 if not index else count - index if "last" in given else index - 1

        def wanted(position: int, value: str) -> bool:
            if index and position != place:
                return False
            return matching is None or matching.any(run, (value,))

        run.work.spend(len(run.message.header) >> 4)
        gone = run.message.delete(field, wanted)
        run.note(f"deleteheader {field}: {gone} gone")

    return deleteheader


FILE_TAGS: Final = {
    "flags": Tagged("strings", "imap4flags"),
    "create": Tagged("", "mailbox"),
    "specialuse": Tagged("string", "special-use"),
}

COMMANDS: Final = {
    "keep": Form(_keep, {"flags": Tagged("strings", "imap4flags")}),
    "discard": Form(_discard),
    "fileinto": Form(
        _fileinto, {"copy": Tagged("", "copy"), **FILE_TAGS}, (), ("string",), extension="fileinto"
    ),
    "redirect": Form(_redirect, {"copy": Tagged("", "copy")}, (), ("string",)),
    "reject": Form(_reject, {}, (), ("string",), extension="reject"),
    "ereject": Form(_reject, {}, (), ("string",), extension="ereject"),
    "setflag": Form(_change_flags, {}, (), ("strings", "strings"), 1, extension="imap4flags"),
    "addflag": Form(_change_flags, {}, (), ("strings", "strings"), 1, extension="imap4flags"),
    "removeflag": Form(_change_flags, {}, (), ("strings", "strings"), 1, extension="imap4flags"),
    "addheader": Form(_addheader, {"last": Tagged()}, (), ("string", "string"), extension="editheader"),
    "deleteheader": Form(
        _deleteheader,
        {**MATCH_TAGS, "index": Tagged("number"), "last": Tagged()},
        (MATCH_TYPES,),
        ("string", "strings"),
        -1,
        extension="editheader",
    ),
}

TESTS: Final = {
    "hasflag": Form(_hasflag, MATCH_TAGS, (MATCH_TYPES,), ("strings", "strings"), 1, extension="imap4flags"),
}
