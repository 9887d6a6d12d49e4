"""The grammar of Sieve: what is a script, and where the fault is in what is none."""

from __future__ import annotations

import pytest

from lorrainemail.grammar.sieve import (
    MAX_BLOCKS,
    MAX_SCRIPT,
    MAX_TESTS,
    Number,
    SieveError,
    Strings,
    Tag,
    parse,
)


def strings(script: str) -> tuple[str, ...]:
    (node,) = parse(script.encode())
    (argument,) = node.arguments
    assert isinstance(argument, Strings)
    return argument.values


def test_commands_arguments_tests_and_blocks_are_told_apart() -> None:
    script = b'if allof (header :is ["a", "b"] "c", not size :over 100K) { keep; stop; }\n'
    (node,) = parse(script)
    assert node.name == "if" and node.block is not None
    assert [command.name for command in node.block] == ["keep", "stop"]
    (allof,) = node.tests
    assert allof.listed and [test.name for test in allof.tests] == ["header", "not"]
    tag, names, key = allof.tests[0].arguments
    assert tag == Tag("is", 1, 18) and names == Strings(("a", "b"), True, 1, 22)
    assert key == Strings(("c",), False, 1, 33)
    assert allof.tests[1].tests[0].arguments[1] == Number(100 * 1024, 1, 53)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("12", 12), ("1K", 1024), ("2m", 2 << 20), ("3G", 3 << 30), ("2147483647", 2147483647)],
)
def test_numbers_have_their_quantifier(text: str, value: int) -> None:
    (node,) = parse(f"x {text};".encode())
    assert node.arguments == (Number(value, 1, 3),)


def test_quoted_strings_lose_their_backslashes_and_nothing_else() -> None:
    assert strings(r'x "a\"b\\c\d";') == ('a"b\\cd',)
    assert strings('x "two\nlines";') == ("two\r\nlines",)


def test_a_text_ends_at_its_dot_and_loses_its_stuffing() -> None:
    # RFC 5228 §2.4.2
    assert strings("x text: # a comment\n..dots\n. not yet\n\n.\n;") == (".dots\r\n. not yet\r\n\r\n",)
    assert strings("x TEXT:\r\nline\r\n.\r\n;") == ("line\r\n",)
    assert strings("x text:\n.\n;") == ("",)


def test_comments_may_stand_anywhere_and_hide_everything() -> None:
    script = b'# one\n/* "two */ keep /* three\n** / */ ; # "four'
    assert [node.name for node in parse(script)] == ["keep"]


def test_names_and_tags_have_no_case() -> None:
    (node,) = parse(b'KeEp :FLAGS "x";')
    assert node.name == "keep" and node.arguments[0] == Tag("flags", 1, 6)


@pytest.mark.parametrize(
    ("script", "line", "column"),
    [
        (b"keep", 1, 5),
        (b"keep;\n  discard\n;\nkeep }", 4, 6),
        (b'keep;\n\n   fileinto "x', 3, 13),
        (b"keep; /* no end", 1, 7),
        (b"redirect text:\nno end\n", 1, 10),
        (b"if true {\n keep;\n", 1, 9),
        (b"keep; \xff", 1, 7),
        (b"# \xc3\xa9\xc3\xa9\n \xff", 2, 2),
        (b"keep;\0", 1, 6),
        (b"keep;\rkeep;", 1, 6),
        (b"x [];", 1, 4),
        (b'x ["a" "b"];', 1, 8),
        (b'x ["a",];', 1, 8),
        (b"x 12z;", 1, 3),
        (b"x 99999999999999999999;", 1, 3),
        (b"x 9999999999G;", 1, 3),
        (b'"keep";', 1, 1),
        ("é;".encode(), 1, 1),
        (b"x :;", 1, 3),
    ],
)
def test_a_fault_is_named_with_its_line_and_column(script: bytes, line: int, column: int) -> None:
    with pytest.raises(SieveError) as found:
        parse(script)
    assert (found.value.line, found.value.column) == (line, column), found.value
    assert f"line {line}, column {column}: " in str(found.value)


def test_nesting_is_bounded_above_what_the_standard_asks_for() -> None:
    # RFC 5228 §2.10.5: 15 levels at least
    def blocks(depth: int) -> bytes:
        return b"if true {" * depth + b"}" * depth

    def tests(depth: int) -> bytes:
        return b"if " + b"not " * depth + b"true {}"

    parse(blocks(MAX_BLOCKS))
    parse(tests(MAX_TESTS - 1))
    for script in (blocks(MAX_BLOCKS + 1), blocks(100_000), tests(MAX_TESTS), b"if " + b"anyof(" * 100_000):
        with pytest.raises(SieveError):
            parse(script)


def test_a_script_that_is_too_large_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(SieveError, match="larger than"):
        parse(b" " * (MAX_SCRIPT + 1))
