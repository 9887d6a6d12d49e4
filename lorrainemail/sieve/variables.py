"""Variables (RFC 5229) and what one script includes of others (RFC 6609)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from lorrainemail.grammar.sieve import Node, SieveError, parse
from lorrainemail.sieve.compiler import (
    MATCH_TAGS,
    MATCH_TYPES,
    MAX_INCLUDE_DEPTH,
    MAX_INCLUDES,
    VARIABLE_NAME,
    Compiler,
    Form,
    Given,
    Tagged,
)
from lorrainemail.sieve.run import Action, Check, Frame, Return, Run

_WILDCARD = re.compile(r"([*?\\])")
_REGEX_SPECIAL = re.compile(r"([\\^$.\[\]|()*+?{}])")


def _upper_first(text: str) -> str:
    return _upper(text[:1]) + text[1:]


def _lower_first(text: str) -> str:
    return _lower(text[:1]) + text[1:]


def _upper(text: str) -> str:
    return text.upper() if text.isascii() else "".join(_one(c.upper(), c) for c in text)


def _lower(text: str) -> str:
    return text.lower() if text.isascii() else "".join(_one(c.lower(), c) for c in text)


def _one(changed: str, character: str) -> str:
    return changed if len(changed) == 1 else character


#: RFC 5229 §4.1: modifiers by their precedence; a higher one is applied first. (:encodeurl: RFC 5435 §6)
_MODIFIERS: Final[dict[str, tuple[int, Callable[[str], str]]]] = {
    "lower": (40, _lower),
    "upper": (40, _upper),
    "lowerfirst": (30, _lower_first),
    "upperfirst": (30, _upper_first),
    "quotewildcard": (20, lambda text: _WILDCARD.sub(r"\\\1", text)),
    "quoteregex": (20, lambda text: _REGEX_SPECIAL.sub(r"\\\1", text)),
    "encodeurl": (15, lambda text: quote(text, safe="-._~")),
    "length": (10, lambda text: str(len(text))),
}
MODIFIER_TAGS: Final = {
    name: Tagged("", {"quoteregex": "regex", "encodeurl": "enotify"}.get(name, "")) for name in _MODIFIERS
}
MODIFIER_GROUPS: Final = tuple(
    frozenset(name for name, (rank, _) in _MODIFIERS.items() if rank == wanted) for wanted in (40, 30, 20)
)


def modifier(given: Given) -> Callable[[str], str]:
    """All modifiers that were given, as one function."""
    chosen = sorted(
        (_MODIFIERS[name] for name in given.tags if name in _MODIFIERS), key=lambda entry: -entry[0]
    )

    def change(text: str) -> str:
        for _, function in chosen:
            text = function(text)
        return text

    return change


def variable_name(compiler: Compiler, node: Node, value: object) -> str:
    """A name that a script sets; match variables cannot be set (RFC 5229 §4)."""
    name = compiler.constant(node, value, "a variable's name").lower()  # type: ignore[arg-type]
    if not VARIABLE_NAME.match(name):
        compiler.fail(node, f'"{name[:60]}" is no name of a variable that can be set')
    if name.startswith("global."):
        compiler.need(node, "include", "the namespace global")
    return name


def _set(compiler: Compiler, node: Node, given: Given) -> Action:
    name = variable_name(compiler, node, given.values[0])
    value, change = given.values[1], modifier(given)

    def set_variable(run: Run) -> None:
        text = change(run.text(value))
        run.set_variable(name, text)
        run.note(f'{name} is now "{text[:100]}"')

    return set_variable


def _string(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5229 §5; :count counts what is not empty."""
    sources, keys = given.values
    matching = compiler.matching(node, given, keys)
    if matching.match.kind == "count":
        return lambda run: matching.any(run, [text for text in run.texts(sources) if text])
    return lambda run: matching.any(run, run.texts(sources))


# -- include --------------------------------------------------------------------------------------------


def _include(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 6609 §3.2: the script is compiled along with the one that includes it."""
    name = compiler.constant(node, given.values[0], "a script's name")
    where = "global" if "global" in given else "personal"
    key = (where, name)
    shared = compiler.shared
    if key in compiler.path:
        compiler.fail(node, f'the script "{name[:60]}" includes itself')
    if len(compiler.path) >= MAX_INCLUDE_DEPTH:
        compiler.fail(node, "scripts include one another too deep")
    shared.includes += 1
    if shared.includes > MAX_INCLUDES:
        compiler.fail(node, f"more than {MAX_INCLUDES} scripts are included")
    octets = shared.library(where, name)
    if octets is None:
        if "optional" in given:
            return lambda run: run.note(f'include "{name}": not there')
        compiler.fail(node, f'there is no {where} script "{name[:60]}" to include')
    try:
        steps = Compiler(shared, name, (*compiler.path, key)).program(parse(octets))
    except SieveError as error:
        if error.script:
            raise
        raise SieveError(error.what, error.line, error.column, name) from None

    def include(run: Run) -> None:
        if "once" in given and key in run.included:
            return
        run.included.add(key)
        frame, captures, script = run.frame, run.captures, run.script
        run.note(f'include "{name}"')
        run.frame, run.captures, run.script = Frame(), (), name
        try:
            run.execute(steps)
        except Return:
            pass
        run.frame, run.captures, run.script = frame, captures, script

    return include


def _return(compiler: Compiler, node: Node, given: Given) -> Action:
    def leave(run: Run) -> None:
        raise Return

    return leave


def _global(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 6609 §3.4."""
    compiler.need(node, "variables", '"global"')
    names = [variable_name(compiler, node, value) for value in given.values[0]]

    def share(run: Run) -> None:
        for name in names:
            run.frame.shared.add(name.removeprefix("global."))

    return share


COMMANDS: Final = {
    "set": Form(_set, MODIFIER_TAGS, MODIFIER_GROUPS, ("string", "string"), extension="variables"),
    "include": Form(
        _include,
        {"personal": Tagged(), "global": Tagged(), "once": Tagged(), "optional": Tagged()},
        (frozenset({"personal", "global"}),),
        ("string",),
        extension="include",
    ),
    "return": Form(_return, extension="include"),
    "global": Form(_global, {}, (), ("strings",), extension="include"),
}
TESTS: Final = {
    "string": Form(_string, MATCH_TAGS, (MATCH_TYPES,), ("strings", "strings"), extension="variables"),
}
