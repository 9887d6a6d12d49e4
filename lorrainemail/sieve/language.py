"""The whole language: every command, test and extension that scripts may use, and :func:`compile_script`."""

from __future__ import annotations

from typing import Final

from lorrainemail.grammar.sieve import parse
from lorrainemail.sieve import actions, compiler, composing, dates, parts, surroundings, tests, variables
from lorrainemail.sieve.compiler import Compiler, Library, Shared
from lorrainemail.sieve.run import Program

COMMANDS: Final = {
    **compiler.COMMANDS,
    **actions.COMMANDS,
    **variables.COMMANDS,
    **surroundings.COMMANDS,
    **composing.COMMANDS,
    **parts.COMMANDS,
}
TESTS: Final = {
    **compiler.TESTS,
    **tests.TESTS,
    **actions.TESTS,
    **variables.TESTS,
    **dates.TESTS,
    **surroundings.TESTS,
    **composing.TESTS,
}
#: What ``require`` knows (RFC 5228 §6); ManageSieve announces the same.
EXTENSIONS: Final = frozenset(
    {
        "body",
        "copy",
        "date",
        "duplicate",
        "editheader",
        "enclose",
        "encoded-character",
        "enotify",
        "envelope",
        "environment",
        "ereject",
        "extracttext",
        "fcc",
        "fileinto",
        "foreverypart",
        "ihave",
        "imapsieve",
        "imap4flags",
        "include",
        "index",
        "mailbox",
        "mboxmetadata",
        "mime",
        "regex",
        "reject",
        "relational",
        "replace",
        "servermetadata",
        "spamtest",
        "spamtestplus",
        "special-use",
        "subaddress",
        "vacation",
        "vacation-seconds",
        "variables",
        "virustest",
    }
)


def _no_scripts(where: str, name: str) -> None:
    return None


def compile_script(
    script: bytes, library: Library = _no_scripts, noting: bool = False, name: str = ""
) -> Program:
    """A script as a program.

    :param library: looks for scripts that it includes.
    :param noting: its runs say what each rule did. ``name``: for its errors.
    :raises SieveError: where it is no script that may be run; with line and column.
    """
    nodes = parse(script)
    shared = Shared(library, noting, COMMANDS, TESTS, EXTENSIONS)
    steps = Compiler(shared, name).program(nodes)
    return Program(steps, frozenset(shared.needs), noting, name)
