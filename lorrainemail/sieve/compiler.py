"""Scripts to programs: what commands exist, what they take, what must be required (RFC 5228 §2.10, §3, §5).

Each command and test is a :class:`Form`: the tags and arguments that it takes as data, and a function that
makes the closure which does it. Forms are in the tables of their modules (:mod:`lorrainemail.sieve.tests`,
``actions``, ``variables``, ...), gathered in :mod:`lorrainemail.sieve.language`; here are the rules that hold
for all of them, and the control structures. Fails with
:class:`lorrainemail.grammar.sieve.SieveError`, which has line and column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, cast

import attrs

from lorrainemail.grammar.sieve import Argument, Node, Number, SieveError, Strings, Tag
from lorrainemail.sieve.matching import (
    CASEMAP,
    COMPARATORS,
    NUMERIC,
    RELATIONS,
    Key,
    Kind,
    Match,
    PatternError,
)
from lorrainemail.sieve.run import Action, Check, Matching, Run, RunError, Step, Stop, Template, Text

#: Commands and tests of one script with all that it includes.
MAX_NODES: Final = 20_000
#: Scripts that include one another, and inclusions of one script (RFC 6609 §3.2).
MAX_INCLUDE_DEPTH: Final = 10
MAX_INCLUDES: Final = 50

_ENCODED = re.compile(
    r"\$\{(?:hex:([ \t\r\n]*[0-9a-f]{1,2}(?:[ \t\r\n]+[0-9a-f]{1,2})*[ \t\r\n]*)"
    r"|unicode:([ \t\r\n]*[0-9a-f]+(?:[ \t\r\n]+[0-9a-f]+)*[ \t\r\n]*))\}",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*|[0-9]+(?:\.[A-Za-z0-9_]+)*)\}")
VARIABLE_NAME: Final = re.compile(r"(?:global\.)?[A-Za-z_][A-Za-z0-9_]*\Z")


@attrs.frozen(slots=True)
class Tagged:
    """A tag that a command takes: what stands behind it ("", "string", "strings", "number") and which
    extension it is of."""

    kind: str = ""
    extension: str = ""


@attrs.frozen(slots=True)
class Form:
    """What a command or test takes.

    :ivar make: (compiler, node, what was given) → closure.
    :ivar tags: by name. ``exclusive``: sets of which one may be given.
    :ivar positional: "string", "strings", "number" in order; ``optional``: how many of the first (negative:
        of the last) may be missing.
    :ivar tests: 0, 1, or -1 for a list. ``block``: it has one.
    :ivar extension: what must be required for it; of several alternatives one.
    """

    make: Callable[[Compiler, Node, Given], Any]
    tags: Mapping[str, Tagged] = attrs.field(factory=dict)
    exclusive: tuple[frozenset[str], ...] = ()
    positional: tuple[str, ...] = ()
    optional: int = 0
    tests: int = 0
    block: bool = False
    extension: str = ""


@attrs.frozen(slots=True)
class Given:
    """The arguments of one command: tags with their values (True where they have none), and the others."""

    tags: Mapping[str, Any]
    values: Sequence[Any]
    nodes: Sequence[Argument]

    def __contains__(self, tag: str) -> bool:
        return tag in self.tags

    def get(self, tag: str, default: Any = None) -> Any:
        return self.tags.get(tag, default)


#: Looks for a script that another includes: ("personal" | "global", name) → its octets or None.
Library = Callable[[str, str], bytes | None]


@attrs.define(slots=True)
class Shared:
    """What a script and all that it includes have in common while they are compiled."""

    library: Library
    noting: bool
    commands: Mapping[str, Form]
    tests: Mapping[str, Form]
    extensions: frozenset[str]
    needs: set[str] = attrs.field(factory=set)
    nodes: int = 0
    includes: int = 0


MATCH_TAGS: Final = {
    "is": Tagged(),
    "contains": Tagged(),
    "matches": Tagged(),
    "regex": Tagged("", "regex"),
    "count": Tagged("string", "relational"),
    "value": Tagged("string", "relational"),
    "comparator": Tagged("string"),
}
MATCH_TYPES: Final = frozenset(MATCH_TAGS) - {"comparator"}


class Compiler:
    """Compiles one script.

    :param script: its name where it is included, else "".
    :param path: of the scripts that are being included.
    """

    def __init__(self, shared: Shared, script: str = "", path: tuple[tuple[str, str], ...] = ()) -> None:
        self.shared = shared
        self.script = script
        self.path = path
        self.enabled: set[str] = set()
        self.loops: list[str] = []

    # -- failing -----------------------------------------------------------------------------------

    def fail(self, at: Node | Argument, what: str) -> NoReturn:
        raise SieveError(what, at.line, at.column, self.script)

    def need(self, at: Node | Argument, extension: str, what: str) -> None:
        """An extension must have been required."""
        if extension and not any(name in self.enabled for name in extension.split("|")):
            self.fail(at, f'{what} needs: require "{extension.split("|")[0]}"')

    # -- blocks ------------------------------------------------------------------------------------

    def program(self, nodes: Sequence[Node]) -> tuple[Step, ...]:
        """A whole script: its requires, then its commands."""
        position = 0
        for node in nodes:
            if node.name != "require":
                break
            self._require(node)
            position += 1
        return self.block(nodes[position:])

    def _require(self, node: Node) -> None:
        if node.tests or node.block is not None or len(node.arguments) != 1:
            self.fail(node, "require takes a list of extensions")
        names = node.arguments[0]
        if not isinstance(names, Strings):
            self.fail(names, "require takes a list of extensions")
        for name in names.values:
            if not self.supports(name):
                self.fail(names, f'the extension "{name[:60]}" is not known here')
            self.enabled.add(name)

    def supports(self, name: str) -> bool:
        """Whether an extension is there."""
        if name.startswith("comparator-"):
            return name[11:] in COMPARATORS
        return name in self.shared.extensions

    def block(self, nodes: Sequence[Node]) -> tuple[Step, ...]:
        steps: list[Step] = []
        position = 0
        while position < len(nodes):
            node = nodes[position]
            position += 1
            if node.name == "if":
                chain = [node]
                while position < len(nodes) and nodes[position].name in ("elsif", "else"):
                    chain.append(nodes[position])
                    position += 1
                    if chain[-1].name == "else":
                        break
                steps.append((node.line, self._conditional(chain)))
            else:
                steps.append((node.line, self._command(node)))
        return tuple(steps)

    def _count(self, node: Node) -> None:
        self.shared.nodes += 1
        if self.shared.nodes > MAX_NODES:
            self.fail(node, "the script has too many commands")

    def _conditional(self, chain: Sequence[Node]) -> Action:
        branches: list[tuple[Check, tuple[Step, ...]]] = []
        otherwise: tuple[Step, ...] = ()
        for node in chain:
            self._count(node)
            if node.arguments:
                self.fail(node.arguments[0], f'"{node.name}" takes no arguments')
            if node.block is None:
                self.fail(node, f'"{node.name}" needs a block')
            if node.name == "else":
                if node.tests:
                    self.fail(node.tests[0], '"else" takes no test')
                otherwise = self.block(node.block)
            else:
                if len(node.tests) != 1 or node.listed:
                    self.fail(node, f'"{node.name}" takes one test')
                check = self.test(node.tests[0])
                branches.append((check, self.block(node.block)))

        def conditional(run: Run) -> None:
            for check, steps in branches:
                if check(run):
                    run.execute(steps)
                    return
            run.execute(otherwise)

        return conditional

    def _command(self, node: Node) -> Action:
        self._count(node)
        form = self.shared.commands.get(node.name)
        if form is None or (form.extension and not self._enabled(form.extension)):
            if "ihave" in self.enabled:
                return _unknown(node)
            if form is not None:
                self.need(node, form.extension, f'"{node.name}"')
            if node.name in ("elsif", "else"):
                self.fail(node, f'"{node.name}" without "if"')
            if node.name == "require":
                self.fail(node, '"require" must stand before all other commands')
            what = "a test, not a command" if node.name in self.shared.tests else "no known command"
            self.fail(node, f'"{node.name}" is {what}')
        made = form.make(self, node, self._given(node, form))
        return cast(Action, made)

    def _enabled(self, extension: str) -> bool:
        return any(name in self.enabled for name in extension.split("|"))

    def test(self, node: Node) -> Check:
        self._count(node)
        form = self.shared.tests.get(node.name)
        if form is None or (form.extension and not self._enabled(form.extension)):
            if "ihave" in self.enabled:
                return _unknown(node)
            if form is not None:
                self.need(node, form.extension, f'"{node.name}"')
            what = "a command, not a test" if node.name in self.shared.commands else "no known test"
            self.fail(node, f'"{node.name}" is {what}')
        check = cast(Check, form.make(self, node, self._given(node, form)))
        return _noted(check, node) if self.shared.noting else check

    # -- arguments ---------------------------------------------------------------------------------

    def _given(self, node: Node, form: Form) -> Given:
        """What a node gives to its form; complains of anything else."""
        if (node.block is not None) is not form.block and node.name in self.shared.commands:
            what = "needs a block" if form.block else "has no block"
            self.fail(node, f'"{node.name}" {what}')
        if form.tests == 0 and node.tests:
            self.fail(node.tests[0], f'"{node.name}" takes no test')
        if form.tests == 1 and (len(node.tests) != 1 or node.listed):
            self.fail(node, f'"{node.name}" takes one test')
        if form.tests == -1 and not node.listed:
            self.fail(node, f'"{node.name}" takes a list of tests in parentheses')
        tags: dict[str, Any] = {}
        rest: list[Argument] = []
        position = 0
        while position < len(node.arguments):
            argument = node.arguments[position]
            position += 1
            if not isinstance(argument, Tag):
                rest.append(argument)
                continue
            if rest:
                self.fail(argument, f":{argument.name} must stand before the other arguments")
            tagged = form.tags.get(argument.name)
            if tagged is None:
                self.fail(argument, f'"{node.name}" does not take :{argument.name}')
            self.need(argument, tagged.extension, f":{argument.name}")
            if argument.name in tags:
                self.fail(argument, f":{argument.name} is given twice")
            if not tagged.kind:
                tags[argument.name] = True
                continue
            if position >= len(node.arguments):
                self.fail(argument, f":{argument.name} needs a {_SINGULAR[tagged.kind]}")
            tags[argument.name] = self._value(tagged.kind, node.arguments[position], f":{argument.name}")
            position += 1
        for group in form.exclusive:
            if len(group & tags.keys()) > 1:
                names = " and ".join(sorted(f":{name}" for name in group & tags.keys()))
                self.fail(node, f"{names} do not go together")
        least = len(form.positional) - abs(form.optional)
        if not least <= len(rest) <= len(form.positional):
            wanted = str(least) if not form.optional else f"{least} to {len(form.positional)}"
            self.fail(
                node, f'"{node.name}" takes {wanted} argument{"" if wanted == "1" else "s"}, not {len(rest)}'
            )
        missing = len(form.positional) - len(rest)
        kinds = form.positional[missing:] if form.optional > 0 else form.positional[: len(rest)]
        values = [
            self._value(kind, argument, f'"{node.name}"') for kind, argument in zip(kinds, rest, strict=True)
        ]
        return Given(tags, values, rest)

    def _value(self, kind: str, argument: Argument, what: str) -> Any:
        if kind == "number":
            if not isinstance(argument, Number):
                self.fail(argument, f"{what} takes a number here")
            return argument.value
        if not isinstance(argument, Strings):
            self.fail(argument, f"{what} takes a {_SINGULAR[kind]} here")
        if kind == "string":
            if argument.listed:
                self.fail(argument, f"{what} takes one string here, not a list")
            return self.text(argument, argument.values[0])
        return tuple(self.text(argument, value) for value in argument.values)

    def text(self, at: Node | Argument, value: str) -> Text:
        """A string as the enabled extensions read it."""
        if "${" not in value:
            return value
        if "encoded-character" in self.enabled:
            value = _ENCODED.sub(lambda match: self._encoded(at, match), value)
        if "variables" not in self.enabled:
            return value
        pieces: list[str] = []
        position = 0
        for match in _VARIABLE.finditer(value):
            name = match.group(1).lower()
            if "." in name:
                if not name.startswith("global.") or name.count(".") > 1:
                    self.fail(at, f'unknown namespace in "${{{name[:60]}}}"')
                self.need(at, "include", f'"${{{name[:60]}}}"')
            pieces += [value[position : match.start()], name]
            position = match.end()
        if not pieces:
            return value
        pieces.append(value[position:])
        return Template(pieces)

    def _encoded(self, at: Node | Argument, match: re.Match[str]) -> str:
        """RFC 5228 §2.4.2.4."""
        octets, points = match.groups()
        if octets is not None:
            try:
                return bytes(int(word, 16) for word in octets.split()).decode("utf-8")
            except UnicodeDecodeError:
                self.fail(at, "${hex:...} does not make UTF-8")
        out = []
        for word in points.split():
            point = int(word, 16) if len(word.lstrip("0")) <= 6 else 0x110000
            if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
                self.fail(at, f"there is no character U+{word[:10].upper()}")
            out.append(chr(point))
        return "".join(out)

    def constant(self, at: Node | Argument, value: Text, what: str) -> str:
        """A string that may not have variables in it."""
        if isinstance(value, Template):
            self.fail(at, f"{what} cannot have variables in it")
        return value

    def matching(
        self, node: Node, given: Given, keys: Sequence[Text], capture: bool = True, default: str = CASEMAP
    ) -> Matching:
        """The match type of a test with its keys."""
        kind = cast(Kind, next((name for name in given.tags if name in MATCH_TYPES), "is"))
        comparator = self.constant(node, given.get("comparator", default), "a comparator")
        if comparator not in COMPARATORS:
            self.fail(node, f'the comparator "{comparator[:60]}" is not known here')
        if comparator in (NUMERIC, "i;unicode-casemap") and comparator == given.get("comparator"):
            self.need(node, f"comparator-{comparator}", f'the comparator "{comparator}"')
        if comparator == NUMERIC and kind in ("contains", "matches", "regex"):
            self.fail(node, f'the comparator "{NUMERIC}" does not know :{kind}')
        relation = ""
        if kind in ("count", "value"):
            relation = self.constant(node, given.get(kind), f":{kind}").lower()
            if relation not in RELATIONS:
                self.fail(node, f':{kind} takes one of "gt", "ge", "lt", "le", "eq", "ne"')
        match = Match(kind, comparator, relation)
        made: list[Key | Template] = []
        for key in keys:
            if isinstance(key, Template):
                made.append(key)
                continue
            try:
                made.append(match.key(key))
            except PatternError as error:
                self.fail(node, str(error))
        return Matching(
            match, tuple(made), capture and kind in ("matches", "regex") and "variables" in self.enabled
        )


_SINGULAR: Final = {"string": "string", "strings": "string or a list of them", "number": "number"}


def _unknown(node: Node) -> Callable[[Run], Any]:
    """RFC 5463 §4: with ihave what is not known is an error only when it is reached."""

    def unknown(run: Run) -> NoReturn:
        raise RunError(f'"{node.name}" is not known here (or its extension not required)')

    return unknown


def _noted(check: Check, node: Node) -> Check:
    shown = show(node)

    def noted(run: Run) -> bool:
        result = check(run)
        run.note(f"{shown}: {'true' if result else 'false'}", node.line)
        return result

    return noted


def show(node: Node) -> str:
    """A command or test in one short line, without its block."""
    words = [node.name]
    for argument in node.arguments:
        if isinstance(argument, Tag):
            words.append(f":{argument.name}")
        elif isinstance(argument, Number):
            words.append(str(argument.value))
        else:
            quoted = [f'"{_short(value)}"' for value in argument.values[:6]]
            if len(argument.values) > 6:
                quoted.append("...")
            words.append(f"[{', '.join(quoted)}]" if argument.listed else quoted[0])
    if node.tests:
        words.append(f"({len(node.tests)} tests)" if node.listed else node.tests[0].name)
    return " ".join(words)


def _short(value: str) -> str:
    value = value.replace("\r\n", " ")
    return value if len(value) <= 60 else value[:57] + "..."


# -- control structures ---------------------------------------------------------------------------------


def _stop(compiler: Compiler, node: Node, given: Given) -> Action:
    def stop(run: Run) -> None:
        run.note("stop")
        raise Stop

    return stop


def _allof(compiler: Compiler, node: Node, given: Given) -> Check:
    checks = [compiler.test(test) for test in node.tests]
    return lambda run: all(check(run) for check in checks)


def _anyof(compiler: Compiler, node: Node, given: Given) -> Check:
    checks = [compiler.test(test) for test in node.tests]
    return lambda run: any(check(run) for check in checks)


def _not(compiler: Compiler, node: Node, given: Given) -> Check:
    check = compiler.test(node.tests[0])
    return lambda run: not check(run)


def _true(compiler: Compiler, node: Node, given: Given) -> Check:
    return lambda run: True


def _false(compiler: Compiler, node: Node, given: Given) -> Check:
    return lambda run: False


COMMANDS: Final = {"stop": Form(_stop)}
TESTS: Final = {
    "allof": Form(_allof, tests=-1),
    "anyof": Form(_anyof, tests=-1),
    "not": Form(_not, tests=1),
    "true": Form(_true),
    "false": Form(_false),
}
