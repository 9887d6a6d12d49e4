"""One run of a script over one message: the state that its commands work on, and the bounds of it.

A compiled script (:class:`Program`) is run by :func:`run_program`, which always comes to a :class:`Result`:
an error ends the script, and then the implicit keep is all that remains (RFC 5228 §2.10.6). Pure: whatever a
script may know beside the message is in its :class:`Context`. Bounded in commands, in octets compared, in
actions, redirects, variables and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs

from lorrainemail.message.header import body_offset
from lorrainemail.message.structure import Part
from lorrainemail.sieve.effects import (
    Context,
    Effect,
    Envelope,
    FileInto,
    Keep,
    Note,
    Redirect,
    Reject,
    Remember,
    Result,
    Sent,
    Version,
)
from lorrainemail.sieve.matching import UNICODE, Captures, Key, Match, PatternError, Work
from lorrainemail.sieve.message import Message
from lorrainemail.sieve.regex import Exhausted

#: Commands of one run (loops over MIME parts included).
MAX_STEPS: Final = 50_000
#: Work of one run, in characters compared or the like: a few seconds of the slowest kind.
MAX_WORK: Final = 40_000_000
#: Work of a run that may be done where others wait: some ten milliseconds.
QUICK_WORK: Final = 60_000
#: What one command costs of it.
_STEP: Final = 20
#: RFC 5228 §2.10.5: how much one message may cause.
MAX_ACTIONS: Final = 32
MAX_REDIRECTS: Final = 4
MAX_NOTIFICATIONS: Final = 4
#: Ids that one run may ask to be remembered (RFC 7352 §4).
MAX_REMEMBERED: Final = 16
#: RFC 5229 §3: 128 variables of 4,000 characters at least.
MAX_VARIABLES: Final = 256
MAX_VALUE: Final = 32 * 1024
#: Characters of all variables of one run together.
MAX_MEMORY: Final = 4 << 20
#: Lines of what a run did.
MAX_NOTES: Final = 5000


class RunError(Exception):
    """The script cannot go on; the text is for its author."""


class Stop(Exception):
    """``stop``."""


class Return(Exception):
    """``return`` of an included script (RFC 6609 §3.3)."""


class Break(Exception):
    """``break`` out of a loop (RFC 5703 §3.2); ``name`` "" for the innermost."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Frame:
    """What one script (the main one or an included one) has for itself: variables, and global ones' names."""

    __slots__ = ("shared", "variables")

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.shared: set[str] = set()


class Run:
    """The state of one run.

    :ivar part: of a loop over parts the current one; its offsets are those of ``whole``, the message as it
        was when the outermost loop began; ``replacements`` of its octets are made when that ends.
    """

    __slots__ = (
        "_memory",
        "_steps",
        "captures",
        "context",
        "effects",
        "enclosures",
        "envelope",
        "flags",
        "frame",
        "globals",
        "implicit",
        "included",
        "line",
        "message",
        "notes",
        "original",
        "part",
        "redirects",
        "replacements",
        "script",
        "vacation",
        "whole",
        "work",
    )

    def __init__(
        self, message: Message, envelope: Envelope, context: Context, noting: bool, work: int
    ) -> None:
        self.message = message
        self.original = message.header
        self.envelope = envelope
        self.context = context
        self.effects: list[Effect] = []
        self.implicit = True
        self.flags: tuple[str, ...] = context.flags
        self.frame = Frame()
        self.globals: dict[str, str] = {}
        self.captures: Captures = ()
        self.included: set[tuple[str, str]] = set()
        self.part: Part | None = None
        self.whole = b""
        self.enclosures = 0
        self.replacements: list[tuple[int, int, bytes]] = []
        self.redirects = 0
        self.vacation = False
        self.work = Work(work)
        self.line = 0
        self.script = ""
        self.notes: list[Note] | None = [] if noting else None
        self._steps = 0
        self._memory = 0

    # -- going on ----------------------------------------------------------------------------------

    def execute(self, steps: Sequence[Step]) -> None:
        """Run commands in order."""
        for line, action in steps:
            self._steps += 1
            if self._steps > MAX_STEPS:
                raise RunError("the script runs too many commands")
            self.work.spend(_STEP)
            self.line = line
            action(self)

    def note(self, what: str, line: int = 0) -> None:
        """Say what happened, where somebody wants to know."""
        if self.notes is not None and len(self.notes) < MAX_NOTES:
            self.notes.append(Note(line or self.line, what, self.script))

    # -- values ------------------------------------------------------------------------------------

    def text(self, value: Text) -> str:
        """A string with its variables expanded."""
        return value if isinstance(value, str) else value.expand(self)

    def texts(self, values: Iterable[Text]) -> list[str]:
        return [value if isinstance(value, str) else value.expand(self) for value in values]

    def variable(self, name: str) -> str:
        """A variable's value, "" where it has none (RFC 5229 §3)."""
        if name.isdigit():
            index = int(name[:6])
            return self.captures[index] if index < len(self.captures) else ""
        if name.startswith("global."):
            return self.globals.get(name[7:], "")
        if name in self.frame.shared:
            return self.globals.get(name, "")
        return self.frame.variables.get(name, "")

    def set_variable(self, name: str, value: str) -> None:
        """Set one; a value that is too long is cut (RFC 5229 §4)."""
        if name.startswith("global."):
            target, name = self.globals, name[7:]
        else:
            target = self.globals if name in self.frame.shared else self.frame.variables
        value = value[:MAX_VALUE]
        if name not in target and len(target) >= MAX_VARIABLES:
            raise RunError("the script has too many variables")
        self._memory += len(value)
        if self._memory > MAX_MEMORY:
            raise RunError("the script's variables need too much memory")
        target[name] = value

    # -- actions -----------------------------------------------------------------------------------

    def version(self) -> Version | None:
        """The message as it is now, None where it is untouched."""
        if self.replacements:
            data = self.replaced()
            body = body_offset(data)
            return Version(data[:body].removesuffix(b"\r\n"), data[body:])
        if self.message.rewritten:
            return Version(self.message.header, self.message.body)
        return None if self.message.edited is None else Version(self.message.edited)

    def replaced(self) -> bytes:
        """The message with its parts replaced; what lies in a part that is replaced goes with it."""
        pieces: list[bytes] = []
        position = 0
        for start, end, octets in sorted(self.replacements, key=lambda entry: (entry[0], -entry[1])):
            if start < position:
                continue
            pieces += [self.whole[position:start], octets]
            position = end
        data = b"".join([*pieces, self.whole[position:]])
        if self.message.data == self.whole or not min(self.replacements)[0]:
            return data
        # The header was edited within the loop, and all replaced parts lie in the body.
        return self.message.header + b"\r\n" + data[len(self.whole) - len(self.message.body) :]

    def add(self, effect: Effect) -> None:
        """One more action; the same action on the same target counts once (RFC 5228 §2.10.3)."""
        if isinstance(effect, Reject):
            if any(isinstance(other, Keep | FileInto | Redirect | Reject) for other in self.effects):
                raise RunError(f"{effect.kind} does not go together with keep, fileinto, redirect or reject")
            if self.vacation:
                raise RunError(f"{effect.kind} does not go together with vacation")
        elif isinstance(effect, Keep | FileInto | Redirect):
            if any(isinstance(other, Reject) for other in self.effects):
                raise RunError("a rejected message cannot be stored or redirected")
            for index, other in enumerate(self.effects):
                if _same_target(effect, other):
                    self.effects[index] = effect
                    return
            if isinstance(effect, Redirect):
                self.redirects += 1
                if self.redirects > MAX_REDIRECTS:
                    raise RunError(f"more than {MAX_REDIRECTS} redirects")
        if len(self.effects) >= MAX_ACTIONS:
            raise RunError(f"more than {MAX_ACTIONS} actions")
        self.effects.append(effect)


def _same_target(one: Effect, other: Effect) -> bool:
    if isinstance(one, Keep):
        return isinstance(other, Keep)
    if isinstance(one, FileInto):
        return isinstance(other, FileInto) and one.folder == other.folder
    return isinstance(one, Redirect) and isinstance(other, Redirect) and one.address.key == other.address.key


Action = Callable[[Run], None]
Check = Callable[[Run], bool]
#: A command of a compiled block: its line, and what it does.
Step = tuple[int, Action]


class Template:
    """A string with variables in it (RFC 5229 §3): constant pieces and names in turn."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: Sequence[str]) -> None:
        self._pieces = tuple(pieces)

    def expand(self, run: Run) -> str:
        text = "".join(
            run.variable(piece) if index % 2 else piece for index, piece in enumerate(self._pieces)
        )
        run.work.spend((len(text) >> 4) + 1)
        if len(text) > 8 * MAX_VALUE:
            raise RunError("an expanded string is too long")
        return text


Text = str | Template


@attrs.frozen(slots=True)
class Matching:
    """A match type with its keys: constants are ready, the others are made when they are asked for.

    :ivar capture: wildcards set the match variables (RFC 5229 §3.2).
    """

    match: Match
    keys: tuple[Key | Template, ...]
    capture: bool

    def any(self, run: Run, values: Iterable[str]) -> bool:
        """Whether any key fits any value; for :count, their number."""
        fold, work, want = self.match.fold, run.work, self.capture
        if self.match.kind == "count":
            values = [str(sum(1 for _ in values))]
        keys = [self._made(run, key) if isinstance(key, Template) else key for key in self.keys]
        for value in values:
            slow = self.match.comparator == UNICODE and not value.isascii()
            work.spend(4 * len(value) if slow else (len(value) >> 6) + 1)
            folded = fold(value)
            for key in keys:
                captures = key(value, folded, work, want)
                if captures is not None:
                    if captures:
                        run.captures = captures
                    return True
        return False

    def _made(self, run: Run, template: Template) -> Key:
        try:
            return self.match.key(template.expand(run))
        except PatternError as error:
            raise RunError(str(error)) from None


@attrs.frozen(slots=True)
class Program:
    """A compiled script.

    :ivar needs: facts of the context that it may ask for: "body", "folders", "remembered".
    :ivar name: for errors and notes, "" for an account's own script.
    :ivar then: the scripts that get what this one keeps, in order.
    """

    steps: tuple[Step, ...]
    needs: frozenset[str] = frozenset()
    noting: bool = False
    name: str = ""
    then: tuple[Program, ...] = ()


def chain(programs: Sequence[Program]) -> Program:
    """Several scripts one after the other: each gets the message that the one before it kept.

    What a script files elsewhere, redirects, refuses or throws away is settled by it; then the others are not
    asked.
    """
    first, *others = programs
    needs = frozenset().union(*(program.needs for program in programs))
    return attrs.evolve(first, needs=needs, then=tuple(others))


def try_program(program: Program, message: Message, envelope: Envelope, context: Context) -> Result | None:
    """Run it where others wait; None where that takes too long. It has done nothing then: run it in a thread,
    over a new :class:`Message`."""
    try:
        return _run(Run(message, envelope, context, program.noting, QUICK_WORK), program)
    except Exhausted:
        return None


def run_program(program: Program, message: Message, envelope: Envelope, context: Context) -> Result:
    """Run it; never fails for anything that a script or a message does."""
    run = Run(message, envelope, context, program.noting, MAX_WORK)
    try:
        return _run(run, program)
    except Exhausted:
        return _failed(run, "the script compares too much")


def _run(run: Run, program: Program) -> Result:
    scripts = (program, *program.then)
    for script in scripts:
        run.script, run.frame, run.captures = script.name, Frame(), ()
        error = ""
        try:
            run.execute(script.steps)
        except (Stop, Return, Break):
            pass
        except RunError as failure:
            error = str(failure)
        except RecursionError:
            error = "the script is nested too deep"
        if error:
            return _failed(run, error)
        kept = any(isinstance(effect, Keep) for effect in run.effects)
        if script is scripts[-1] or not (run.implicit or kept):
            break
        # The next script decides about what this one keeps.
        run.effects = [effect for effect in run.effects if not isinstance(effect, Keep)]
        run.implicit = True
    if run.implicit:
        run.note("implicit keep", run.line)
        if not any(isinstance(effect, Keep | Reject) for effect in run.effects):
            run.effects.append(Keep(run.flags, run.version()))
    elif not any(isinstance(effect, Keep | FileInto | Redirect | Reject) for effect in run.effects):
        run.note("discarded")
    return Result(tuple(run.effects), "", tuple(run.notes or ()))


def _failed(run: Run, error: str) -> Result:
    """What is left of a script that failed: the implicit keep, of the message as it came."""
    where = f"{run.script}, " if run.script else ""
    error = f"{where}line {run.line}: {error}"
    run.note(f"error: {error}")
    return Result((Keep(),), error, tuple(run.notes or ()))


__all__ = [
    "Action",
    "Break",
    "Check",
    "Frame",
    "Matching",
    "Program",
    "Remember",
    "Return",
    "Run",
    "RunError",
    "Sent",
    "Step",
    "Stop",
    "Template",
    "Text",
    "chain",
    "run_program",
    "try_program",
]
