"""What a ManageSieve client sends is cut the same way wherever the octets are split."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.grammar.managesieve import Atom, Fault, Limits, Reader, Words, string

LIMITS = Limits(line=200, literal=64, skip=256)


def events(*chunks: bytes) -> list[Words | Fault]:
    reader, found = Reader(LIMITS), []
    for chunk in chunks:
        reader.feed(chunk)
        while (event := reader.next()) is not None:
            found.append(event)
            if isinstance(event, Fault) and event.fatal:
                return found
    return found


def test_words_of_each_kind() -> None:
    assert events(b'PutScript "a \\"b\\\\" {3+}\r\nx\ny 12\r\nNOOP\n') == [
        Words((Atom(b"PutScript"), b'a "b\\', b"x\ny", 12)),
        Words((Atom(b"NOOP"),)),
    ]
    assert events(b'GETSCRIPT ""\r\n') == [Words((Atom(b"GETSCRIPT"), b""))]
    assert events(b"X {0+}\r\n\r\n") == [Words((Atom(b"X"), b""))]


def test_a_literal_that_is_too_large_is_read_over_with_the_rest_of_its_command() -> None:
    assert events(b"A {100+}\r\n" + b"z" * 100 + b' "b" {2+}\r\nno\r\nB\r\n') == [
        Fault("The literal is too large", too_big=True),
        Words((Atom(b"B"),)),
    ]
    assert events(b"A {300+}\r\n")[-1] == Fault("The literal is too large", fatal=True, too_big=True)


def test_a_wrong_command_with_a_literal_never_runs_the_literal() -> None:
    found = events(b"A ( {6+}\r\nDELETE\r\nB\r\n")
    assert found == [Fault("That cannot be understood"), Words((Atom(b"B"),))]


def test_a_line_without_end_is_bounded() -> None:
    assert events(b"x" * 201) == [Fault("Line too long", fatal=True)]


@given(st.binary(max_size=300), st.integers(1, 30))
def test_any_octets_come_to_the_same_commands_however_they_are_split(octets: bytes, step: int) -> None:
    octets += b"\r\n"
    whole = events(octets)
    split = events(*(octets[at : at + step] for at in range(0, len(octets), step)))
    assert split == whole


_PIECES = st.sampled_from(
    [
        b"NOOP",
        b" ",
        b'"a"',
        b"{3+}\r\n",
        b"abc",
        b"\r\n",
        b"7",
        b'"',
        b"\\",
        b"{70+}\r\n",
        b"{9999+}\r\n",
        b"(",
    ]
)


@given(st.lists(_PIECES, max_size=40).map(b"".join), st.integers(1, 9))
def test_pieces_of_the_grammar_come_to_the_same_commands_however_they_are_split(
    octets: bytes, step: int
) -> None:
    whole = events(octets)
    assert events(*(octets[at : at + step] for at in range(0, len(octets), step))) == whole


@given(st.binary(max_size=100))
def test_what_is_printed_is_read_back(octets: bytes) -> None:
    printed = string(octets[:64])
    if printed.startswith(b"{"):  # a client's literal does not wait
        printed = printed.replace(b"}", b"+}", 1)
    [words] = events(b"X " + printed + b"\r\n")
    assert words == Words((Atom(b"X"), octets[:64]))
