"""Keys and values: what matches, what wildcards caught, and that no pattern takes more than linear time."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.sieve.matching import CASEMAP, NUMERIC, OCTET, UNICODE, Match, PatternError, Work
from lorrainemail.sieve.regex import Exhausted, Regex

PLENTY = 50_000_000
MIB = 1 << 20


def ask(
    kind: str, key: str, value: str, comparator: str = CASEMAP, relation: str = ""
) -> tuple[str, ...] | None:
    match = Match(kind, comparator, relation)  # type: ignore[arg-type]
    return match.key(key)(value, match.fold(value), Work(PLENTY), True)


@pytest.mark.parametrize(
    ("pattern", "value", "caught"),
    [
        ("*", "", ("", "")),
        ("*", "abc", ("abc", "abc")),
        ("a*c", "abbc", ("abbc", "bb")),
        ("*[*]*", "x [b] c [d]", ("x [b] c [d]", "x ", "b", " c [d]")),
        ("?*?", "abcd", ("abcd", "a", "bc", "d")),
        ("a?c*", "AbCd", ("AbCd", "b", "d")),
        (r"\*\?\\", r"*?\ ".strip(), (r"*?\ ".strip(),)),
        ("*a?c*", "aab aXc", ("aab aXc", "aab ", "X", "")),
        ("ab", "abc", None),
        ("abc", "ab", None),
        ("a*a", "a", None),
        ("?", "", None),
        ("*b*a*", "ab", None),
    ],
)
def test_wildcards_catch_as_little_as_they_can(
    pattern: str, value: str, caught: tuple[str, ...] | None
) -> None:
    # RFC 5229 §3.2
    assert ask("matches", pattern, value) == caught


@given(st.text("ab*?", max_size=8), st.text("abc", max_size=12))
def test_wildcards_match_what_backtracking_would_match(pattern: str, value: str) -> None:
    oracle = "".join({"*": "(.*?)", "?": "(.)"}.get(c, re.escape(c)) for c in pattern)
    found = re.fullmatch(oracle, value, re.DOTALL)
    expected = None if found is None else (value, *found.groups())
    assert ask("matches", pattern, value, OCTET) == expected


@pytest.mark.parametrize(
    ("pattern", "value", "caught"),
    [
        ("(a+)+$", "xaa", ("aa", "aa")),
        ("^[[:alpha:]]+ ([0-9]{2,3})", "abc 1234", ("abc 123", "123")),
        ("(foo|foobar)(bar)?", "xfoobar", ("foobar", "foo", "bar")),
        ("[^a-c]", "abcd", ("d",)),
        ("[]a]+", "x]a", ("]a",)),
        ("a|b|", "c", ("",)),
        ("x{0,2}y", "xxxy", ("xxy",)),
        (r"\.\*", "a.*", (".*",)),
        ("(a)|(b)", "b", ("b", "", "b")),
        ("^$", "", ("",)),
        ("^a", "ba", None),
        ("a$", "ab", None),
        ("ab{3}c", "abbc", None),
    ],
)
def test_regular_expressions_are_those_of_posix(
    pattern: str, value: str, caught: tuple[str, ...] | None
) -> None:
    assert ask("regex", pattern, value) == caught


@given(st.text("ab", max_size=10), st.from_regex(r"\A(?:[ab.]|\([ab]\|[ab]\)|[ab][*+?]){0,5}\Z"))
def test_regular_expressions_match_where_those_of_python_do(value: str, pattern: str) -> None:
    regex = Regex(pattern)
    found = re.search(pattern, value, re.DOTALL)
    assert regex.matches(value, Work(PLENTY)) is (found is not None)
    spans = regex.groups(value, Work(PLENTY))
    assert (spans is None) is (found is None)
    if spans is not None and found is not None:
        assert spans[0][0] == found.start() and spans[0][1] >= found.end()


NO_PATTERNS = ["(", ")", "[", "[a", "*", "a{", "a{2,1}", "a{999}", "[z-a]", "[[:x:]]", "\\", "(" * 99]


@pytest.mark.parametrize("pattern", NO_PATTERNS)
def test_what_is_no_regular_expression_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        Regex(pattern)


def test_a_pattern_cannot_grow_beyond_its_bound() -> None:
    with pytest.raises(PatternError, match="too large"):
        Regex("((a{200}){200}){200}")


@pytest.mark.parametrize(
    ("kind", "pattern", "text"),
    [
        ("regex", "(a+)+$", "a" * MIB + "b"),
        ("regex", "(a|a)*(a|aa)*c", "a" * MIB),
        ("regex", "(a|b)*a(a|b){12}$", "ab" * (MIB // 2)),
        ("regex", "(.*)(.*)(.*)(.*)x$", "a" * MIB),
        ("matches", "*a*a*a*a*b", "a" * MIB),
        ("matches", "*a?a*a?a*?b", "a" * MIB),
        ("matches", "*" + "a*" * 500 + "b", "a" * MIB),
        ("matches", "*" + "a?" * 500 + "b*", "a" * MIB),
    ],
)
def test_hostile_patterns_over_a_mebibyte_cost_a_small_multiple_of_it(
    kind: str, pattern: str, text: str
) -> None:
    match = Match(kind, CASEMAP)  # type: ignore[arg-type]
    work = Work(PLENTY)
    assert match.key(pattern)(text, match.fold(text), work, False) is None
    assert PLENTY - work.left < 20 * MIB


def test_a_pattern_that_has_too_many_states_is_stopped_by_its_budget() -> None:
    regex = Regex("(a|b)*a(a|b){200}(c|d)")
    text = "".join(random.Random(7).choices("ab", k=MIB))
    with pytest.raises(Exhausted):
        regex.matches(text, Work(3_000_000))


def test_comparators_differ_as_their_standards_say() -> None:
    assert ask("is", "ABC", "abc") == () and ask("is", "ABC", "abc", OCTET) is None
    assert ask("is", "É", "é") is None and ask("is", "É", "é", UNICODE) == ()  # RFC 5051
    assert ask("contains", "ß", "Straße", UNICODE) == ()
    assert ask("is", "10", "0010abc", NUMERIC) == () and ask("is", "x", "y", NUMERIC) == ()  # RFC 4790 §9.1
    assert ask("value", "9", "10", NUMERIC, "gt") == () and ask("value", "9", "10", CASEMAP, "gt") is None
    assert ask("value", "x", "10", NUMERIC, "lt") == (), "what is no number is larger than any"
    assert ask("value", "a", "_", CASEMAP, "gt") == (), "letters are compared as capitals"
    assert ask("matches", "*É*", "aéà", UNICODE) == ("aéà", "a", "à")
