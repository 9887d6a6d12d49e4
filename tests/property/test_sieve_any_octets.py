"""Any octets are either a script or a clean error with line and column; any script comes to an end."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from lorrainemail.addresses import parse_address
from lorrainemail.grammar.sieve import SieveError, parse
from lorrainemail.sieve.effects import Context, Envelope
from lorrainemail.sieve.language import COMMANDS, EXTENSIONS, TESTS, compile_script
from lorrainemail.sieve.message import Message
from lorrainemail.sieve.run import run_program

_WORDS = [
    *(name for name in COMMANDS),
    *(name for name in TESTS),
    *(f'"{name}"' for name in sorted(EXTENSIONS)),
    *(f":{tag}" for form in (*COMMANDS.values(), *TESTS.values()) for tag in form.tags),
    "if", "elsif", "else", "require", "{", "}", "(", ")", "[", "]", ",", ";", "1", "100K", '"subject"',
    '"*a?"', '"${1}"', '"${x}"', '"from"', '"i;octet"', '"i;ascii-numeric"', '"gt"', '"+0100"', '"hour"',
    '"a@b.example"', '"\\\\Seen x"', "text:\nx\n.\n", "# c\n", "/* c */", '"(a|b)+$"', '"mailto:a@b.example"',
    '"global.x"',
]  # fmt: skip
_REQUIRE = "require [" + ", ".join(f'"{name}"' for name in sorted(EXTENSIONS)) + "];\n"

MESSAGE = (
    b"From: a@b.example\r\nTo: bob@bricoleur.com\r\nSubject: a [b] c\r\n"
    b"Date: Sun, 22 Nov 2026 08:00:00 +0100\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
    b"--x\r\n\r\none\r\n--x\r\nContent-Type: text/html\r\n\r\n<b>two</b>\r\n--x--\r\n"
)
ENVELOPE = Envelope(parse_address("a@b.example"), parse_address("bob@bricoleur.com"))


def _runs_or_is_refused(script: bytes) -> None:
    try:
        program = compile_script(script, lambda where, name: b'keep; include "x";' if name == "x" else None)
    except SieveError as error:
        assert error.line >= 1 and error.column >= 1
        assert error.script or error.line <= script.count(b"\n") + 1
        return
    run_program(program, Message.of(MESSAGE), ENVELOPE, Context(now=1.8e9))


@given(st.binary(max_size=300))
@example(b"\xef\xbb\xbfkeep;")
@example(b"\xff")
def test_any_octets_are_a_script_or_a_clean_error(octets: bytes) -> None:
    try:
        parse(octets)
    except SieveError as error:
        assert 1 <= error.line <= octets.count(b"\n") + 1 and error.column >= 1
    _runs_or_is_refused(octets)


@given(st.lists(st.sampled_from(_WORDS), max_size=40), st.booleans())
@settings(max_examples=200)
def test_any_words_of_the_language_run_or_are_refused(words: list[str], required: bool) -> None:
    _runs_or_is_refused(((_REQUIRE if required else "") + " ".join(words)).encode())


_KEY = st.text("ab*?\\[]().+{}|^$ 1,", max_size=12)


@given(_KEY, st.sampled_from(["is", "contains", "matches", "regex"]), st.text("abA[]* é1", max_size=20))
@settings(max_examples=200)
def test_any_key_is_compared_with_any_value(key: str, kind: str, value: str) -> None:
    quoted = key.replace("\\", "\\\\").replace('"', '\\"')
    text = value.replace("\\", "\\\\").replace('"', '\\"')
    _runs_or_is_refused(
        f'require ["variables", "regex", "fileinto"]; if string :{kind} "{text}" "{quoted}" '
        f'{{ fileinto "${{1}}${{2}}x"; }}'.encode()
    )
