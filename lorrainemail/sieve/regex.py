"""Extended regular expressions of POSIX, matched in linear time (draft-ietf-sieve-regex).

The pattern becomes a nondeterministic automaton (Thompson). Whether it matches, a deterministic one says
that is built on the way, a state when it is first met; what the groups matched is found, only where asked, by
walking all threads at once (Pike), leftmost and longest. Neither ever goes back: a hostile pattern costs its
size times the text's, which the caller's :class:`Work` bounds. Called by :mod:`lorrainemail.sieve.matching`.
Fails with :class:`PatternError` for what is no pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

#: POSIX RE_DUP_MAX.
MAX_REPEAT: Final = 255
#: Instructions of one automaton; levels of parentheses.
MAX_INSTRUCTIONS: Final = 4000
MAX_DEPTH: Final = 50
#: States and transitions of the deterministic automaton that are remembered.
MAX_STATES: Final = 2000
MAX_TRANSITIONS: Final = 50_000

_CLASSES: Final[dict[str, Callable[[str], bool]]] = {
    "alpha": str.isalpha,
    "digit": lambda c: c in "0123456789",
    "alnum": lambda c: c.isalpha() or c in "0123456789",
    "upper": str.isupper,
    "lower": str.islower,
    "space": lambda c: c in " \t\n\r\f\v",
    "blank": lambda c: c in " \t",
    "punct": lambda c: c.isascii() and c.isprintable() and not c.isalnum() and c != " ",
    "print": str.isprintable,
    "graph": lambda c: c.isprintable() and c != " ",
    "cntrl": lambda c: c < " " or c == "\x7f",
    "xdigit": lambda c: c in "0123456789abcdefABCDEF",
}


class PatternError(ValueError):
    """The pattern is malformed or too large; the message says which."""


class Work:
    """How much may still be done; shared by all that one run of a script does."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise Exhausted


class Exhausted(Exception):
    """More work than one run of a script may do."""


# Instructions: (kind, operand, operand). A character instruction's operand says yes or no to a character.
_CHAR, _SET, _ANY, _SPLIT, _JUMP, _SAVE, _START, _FINISH, _MATCH = range(9)
_Instruction = tuple[int, object, int]


class _Compiler:
    """Pattern to instructions, by recursive descent."""

    def __init__(self, pattern: str, fold: Callable[[str], str]) -> None:
        self.pattern = pattern
        self.fold = fold
        self.at = 0
        self.groups = 0
        self.program: list[_Instruction] = []

    def fail(self, what: str) -> NoReturn:
        raise PatternError(what)

    def compile(self) -> list[_Instruction]:
        self.emit(_SAVE, None, 0)
        self.alternatives(0)
        if self.at < len(self.pattern):
            self.fail('")" without "("')
        self.emit(_SAVE, None, 1)
        self.emit(_MATCH)
        return self.program

    def emit(self, kind: int, operand: object = None, other: int = 0) -> int:
        if len(self.program) >= MAX_INSTRUCTIONS:
            self.fail("the regular expression is too large")
        self.program.append((kind, operand, other))
        return len(self.program) - 1

    def alternatives(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            self.fail("parentheses are nested too deep")
        ends = []
        while True:
            split = self.emit(_SPLIT)
            self.sequence(depth)
            if self.at < len(self.pattern) and self.pattern[self.at] == "|":
                self.at += 1
                ends.append(self.emit(_JUMP))
                self.program[split] = (_SPLIT, split + 1, len(self.program))
            else:
                self.program[split] = (_SPLIT, split + 1, split + 1)
                break
        for end in ends:
            self.program[end] = (_JUMP, None, len(self.program))

    def sequence(self, depth: int) -> None:
        pattern = self.pattern
        while self.at < len(pattern) and pattern[self.at] not in "|)":
            begin = len(self.program)
            self.atom(depth)
            while self.at < len(pattern) and pattern[self.at] in "*+?{":
                low, high = self.repetition()
                self.repeat(begin, low, high)

    def atom(self, depth: int) -> None:
        character = self.pattern[self.at]
        self.at += 1
        if character == "(":
            self.groups += 1
            group = self.groups
            self.emit(_SAVE, None, 2 * group)
            self.alternatives(depth + 1)
            if self.at >= len(self.pattern):
                self.fail('"(" without ")"')
            self.at += 1
            self.emit(_SAVE, None, 2 * group + 1)
        elif character == "[":
            self.emit(_SET, self.bracket())
        elif character == ".":
            self.emit(_ANY)
        elif character == "^":
            self.emit(_START)
        elif character == "$":
            self.emit(_FINISH)
        elif character in "*+?{":
            self.fail(f'nothing stands before "{character}"')
        elif character == "\\":
            if self.at >= len(self.pattern):
                self.fail("a backslash at the end")
            self.literal(self.pattern[self.at])
            self.at += 1
        else:
            self.literal(character)

    def literal(self, character: str) -> None:
        for folded in self.fold(character):
            self.emit(_CHAR, folded)

    def repetition(self) -> tuple[int, int | None]:
        character = self.pattern[self.at]
        self.at += 1
        if character != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[character]
        end = self.pattern.find("}", self.at)
        bounds = self.pattern[self.at : end].split(",") if end >= 0 else []
        self.at = end + 1
        if not 1 <= len(bounds) <= 2 or not all(b.isascii() and (b.isdigit() or not b) for b in bounds):
            self.fail('malformed "{...}"')
        if not bounds[0] or any(len(b) > 3 for b in bounds):
            self.fail('malformed "{...}"')
        low = int(bounds[0])
        high = low if len(bounds) == 1 else int(bounds[1]) if bounds[1] else None
        if max(low, high or 0) > MAX_REPEAT or (high is not None and high < low):
            self.fail('the numbers of "{...}" are out of range')
        return low, high

    def repeat(self, begin: int, low: int, high: int | None) -> None:
        """Replace what was compiled since ``begin`` by its repetition."""
        body = self.program[begin:]
        del self.program[begin:]

        def copy() -> None:
            shift = len(self.program) - begin
            for kind, operand, other in body:
                if kind == _SPLIT:
                    assert isinstance(operand, int)
                    self.emit(kind, operand + shift, other + shift)
                elif kind == _JUMP:
                    self.emit(kind, None, other + shift)
                else:
                    self.emit(kind, operand, other)

        for _ in range(low if high is not None or low == 0 else low - 1):
            copy()
        if high is None:
            if low == 0:
                split = self.emit(_SPLIT)
                copy()
                self.emit(_JUMP, None, split)
                self.program[split] = (_SPLIT, split + 1, len(self.program))
            else:
                start = len(self.program)
                copy()
                self.emit(_SPLIT, start, len(self.program) + 1)
            return
        splits = []
        for _ in range(high - low):
            splits.append(self.emit(_SPLIT))
            copy()
        for split in splits:
            self.program[split] = (_SPLIT, split + 1, len(self.program))

    def bracket(self) -> Callable[[str], bool]:
        """What stands between "[" and "]" (POSIX 9.3.5)."""
        pattern = self.pattern
        negated = pattern.startswith("^", self.at)
        self.at += negated
        singles: set[str] = set()
        ranges: list[tuple[str, str]] = []
        classes: list[Callable[[str], bool]] = []
        first = True
        while True:
            if self.at >= len(pattern):
                self.fail('"[" without "]"')
            if pattern[self.at] == "]" and not first:
                self.at += 1
                break
            first = False
            if pattern.startswith("[:", self.at):
                end = pattern.find(":]", self.at + 2)
                name = pattern[self.at + 2 : end] if end >= 0 else ""
                if name not in _CLASSES:
                    self.fail("unknown character class")
                classes.append(_CLASSES[name])
                self.at = end + 2
                continue
            low = self.element()
            if pattern.startswith("-", self.at) and not pattern.startswith("-]", self.at):
                self.at += 1
                if self.at >= len(pattern):
                    self.fail('"[" without "]"')
                high = self.element()
                if high < low:
                    self.fail("a range runs backwards")
                ranges.append((low, high))
            else:
                singles.add(low)
        fold = self.fold
        folding = fold("a") != "a" or fold("A") != "A"

        def plain(c: str) -> bool:
            return (
                c in singles
                or any(low <= c <= high for low, high in ranges)
                or any(member(c) for member in classes)
            )

        def holds(c: str) -> bool:
            return plain(c) or (folding and (plain(c.lower()) or plain(c.upper())))

        return (lambda c: not holds(c)) if negated else holds

    def element(self) -> str:
        """One character of a bracket expression, also as ``[.x.]`` or ``[=x=]``."""
        pattern = self.pattern
        if pattern[self.at] == "[" and pattern[self.at + 1 : self.at + 2] in (".", "="):
            mark = pattern[self.at + 1]
            if pattern[self.at + 3 : self.at + 5] != mark + "]":
                self.fail("unknown collating element")
            self.at += 5
            return pattern[self.at - 3]
        self.at += 1
        return pattern[self.at - 1]


class _State:
    """A state of the deterministic automaton: the places that wait for a character."""

    __slots__ = ("at_end", "matched", "next", "places")

    def __init__(self, places: tuple[int, ...], matched: bool, at_end: bool) -> None:
        self.places = places
        self.matched = matched
        self.at_end = at_end
        self.next: dict[str, _State] = {}


class Regex:
    """A compiled pattern. Not for several threads at once.

    :param fold: applied to each literal character; texts come folded in the same way.
    """

    __slots__ = ("_groups", "_program", "_states", "_transitions")

    def __init__(self, pattern: str, fold: Callable[[str], str] = lambda c: c) -> None:
        compiler = _Compiler(pattern, fold)
        self._program = compiler.compile()
        self._groups = compiler.groups
        self._states: dict[tuple[tuple[int, ...], bool, bool], _State] = {}
        self._transitions = 0

    def matches(self, text: str, work: Work) -> bool:
        """Whether it matches anywhere in the text."""
        work.spend(len(text) + 1)
        state = self._closure((0,), True, work)
        for character in text:
            if state.matched:
                return True
            following = state.next.get(character)
            if following is None:
                following = self._step(state, character, work)
            state = following
        return state.matched or state.at_end

    def _step(self, state: _State, character: str, work: Work) -> _State:
        if self._transitions >= MAX_TRANSITIONS or len(self._states) >= MAX_STATES:
            self._states.clear()
            self._transitions = 0
            state = _State(state.places, state.matched, state.at_end)
        program = self._program
        reached = [place + 1 for place in state.places if _takes(program[place], character)]
        reached.append(0)  # a match may begin anywhere
        following = self._closure(tuple(reached), False, work)
        state.next[character] = following
        self._transitions += 1
        return following

    def _closure(self, places: tuple[int, ...], first: bool, work: Work) -> _State:
        waiting, matched = self._reach(places, first, False, work)
        _, at_end = self._reach(places, first, True, work)
        key = (tuple(sorted(waiting)), matched, at_end)
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = _State(*key)
        return state

    def _reach(self, places: tuple[int, ...], first: bool, last: bool, work: Work) -> tuple[set[int], bool]:
        program = self._program
        seen: set[int] = set()
        waiting: set[int] = set()
        stack = list(places)
        matched = False
        while stack:
            place = stack.pop()
            if place in seen:
                continue
            seen.add(place)
            kind, operand, other = program[place]
            if kind <= _ANY:
                waiting.add(place)
            elif kind == _SPLIT:
                stack.append(other)
                stack.append(operand)  # type: ignore[arg-type]
            elif kind == _JUMP:
                stack.append(other)
            elif kind == _SAVE or (kind == _START and first) or (kind == _FINISH and last):
                stack.append(place + 1)
            elif kind == _MATCH:
                matched = True
        work.spend(4 * len(seen))
        return waiting, matched

    def groups(self, text: str, work: Work) -> list[tuple[int, int]] | None:
        """Where the whole and its groups matched, leftmost and longest; (-1, -1) for a group that did not.
        None where nothing matches."""
        program = self._program
        blank = (-1,) * (2 * self._groups + 2)
        best: tuple[int, ...] | None = None
        threads: list[tuple[int, tuple[int, ...]]] = []
        size = len(text)
        for position in range(size + 1):
            last = position == size
            following: list[tuple[int, tuple[int, ...]]] = []
            seen: set[int] = set()
            if best is None:
                threads.append((0, blank))
            for start, slots in threads:
                if best is not None and slots[0] > best[0]:
                    continue
                stack = [(start, slots)]
                while stack:
                    place, saved = stack.pop()
                    if place in seen:
                        continue
                    seen.add(place)
                    kind, operand, other = program[place]
                    if kind <= _ANY:
                        following.append((place, saved))
                    elif kind == _SPLIT:
                        stack.append((other, saved))
                        stack.append((operand, saved))  # type: ignore[arg-type]
                    elif kind == _JUMP:
                        stack.append((other, saved))
                    elif kind == _SAVE:
                        stack.append((place + 1, (*saved[:other], position, *saved[other + 1 :])))
                    elif (kind == _START and position == 0) or (kind == _FINISH and last):
                        stack.append((place + 1, saved))
                    elif kind == _MATCH and (best is None or saved[0] <= best[0]):
                        best = saved if best is None or saved[1] > best[1] else best
            work.spend(4 * len(seen) + 1)
            if last or (best is not None and not following):
                break
            character = text[position]
            threads = [(place + 1, saved) for place, saved in following if _takes(program[place], character)]
        if best is None:
            return None
        return [(best[index], best[index + 1]) for index in range(0, len(best), 2)]


def _takes(instruction: _Instruction, character: str) -> bool:
    kind, operand, _ = instruction
    if kind == _CHAR:
        return operand == character
    if kind == _ANY:
        return True
    assert callable(operand)
    return bool(operand(character))
