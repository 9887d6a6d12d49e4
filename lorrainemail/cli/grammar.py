"""What words the operator's command knows, as plain values taken from its parsers.

Read by ``completion`` and by what makes the manual pages; nothing here is written by hand.
"""

from __future__ import annotations

import argparse
import re
from typing import Any

import attrs

from lorrainemail.cli.main import COMMANDS, make_parser


@attrs.frozen(slots=True)
class Option:
    """One option or argument. ``names`` is empty for an argument; ``metavar`` "" for a switch."""

    names: tuple[str, ...]
    metavar: str
    help: str
    needed: bool


@attrs.frozen(slots=True)
class Word:
    """A command, or a word of one: the words that lead to it, and what may follow."""

    path: tuple[str, ...]
    description: str
    options: tuple[Option, ...]
    arguments: tuple[Option, ...]
    below: dict[str, str]


def all_words() -> list[Word]:
    """The command itself (its path is empty), every command, and every word below, in order."""
    top = make_parser("")
    found = [Word((), top.description or "", _options(top), (), {n: c.help for n, c in COMMANDS.items()})]
    for name in COMMANDS:
        parsers = _subparsers(make_parser(name))
        found += _words((name,), parsers.choices[name])
    return found


def _words(path: tuple[str, ...], parser: argparse.ArgumentParser) -> list[Word]:
    below = _below(parser)
    helps = {action.dest: action.help or "" for action in below._choices_actions} if below else {}
    word = Word(path, parser.description or "", _options(parser), _arguments(parser), helps)
    found = [word]
    for name, inner in (below.choices if below else {}).items():
        found += _words((*path, name), inner)
    return found


def _options(parser: argparse.ArgumentParser) -> tuple[Option, ...]:
    return tuple(
        Option(tuple(action.option_strings), _metavar(action), _help(action), action.required)
        for action in parser._actions
        if action.option_strings and not isinstance(action, argparse._HelpAction)
    )


def _arguments(parser: argparse.ArgumentParser) -> tuple[Option, ...]:
    return tuple(
        Option((), _metavar(action), _help(action), action.nargs not in ("?", "*"))
        for action in parser._actions
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction)
    )


def _metavar(action: argparse.Action) -> str:
    if action.option_strings and action.nargs == 0:
        return ""
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "|".join(str(choice) for choice in action.choices)
    return action.dest.upper()


def _help(action: argparse.Action) -> str:
    if action.help in (None, argparse.SUPPRESS):
        return ""
    words = {"default": action.default, "prog": "lorrainemail"}
    plain = re.sub(r"%\((\w+)\)s", lambda match: str(words.get(match.group(1), "")), action.help or "")
    return plain.replace("%%", "%")


def _below(parser: argparse.ArgumentParser) -> Any:
    return next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)


def _subparsers(parser: argparse.ArgumentParser) -> Any:
    found = _below(parser)
    assert found is not None
    return found
