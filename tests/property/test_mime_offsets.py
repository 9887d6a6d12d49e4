"""Structure by offsets against the standard library, on generated messages; anything at all never fails."""

from __future__ import annotations

import email
import email.message
import email.policy

from hypothesis import given, settings
from hypothesis import strategies as st

from lorrainemail.message.addresslist import parse_addresses
from lorrainemail.message.header import body_offset, fields, pick, values
from lorrainemail.message.structure import Part, parse_structure
from lorrainemail.message.summary import body_of, summarize

TEXT = st.lists(
    st.sampled_from(["", "word", "--", "--b", "--b1x", "-- ", "a: b", "déjà", " x", "--b0 --"]), max_size=5
).map("\r\n".join)


@st.composite
def entities(draw: st.DrawFn, depth: int = 0) -> bytes:
    """A message whose boundaries never occur in its texts."""
    kind = draw(
        st.sampled_from(["text", "html", "png", "multi", "message", "bare"] if depth < 3 else ["text"])
    )
    extra = draw(st.sampled_from(["", "Subject: x\r\n y\r\n", "X-A: 1\r\nX-A: 2\r\n"]))
    if kind == "multi":
        boundary = f"=_{depth}{draw(st.integers(0, 99))}"
        parts = draw(st.lists(entities(depth=depth + 1), min_size=1, max_size=3))
        delimiter = f"\r\n--{boundary}".encode()
        body = delimiter[2:] + b"\r\n" + (delimiter + b"\r\n").join(parts) + delimiter + b"--\r\n"
        preamble = draw(st.sampled_from([b"", b"preamble\r\n"]))
        return (
            f'{extra}Content-Type: multipart/mixed; boundary="{boundary}"\r\n\r\n'.encode() + preamble + body
        )
    if kind == "message":
        return f"{extra}Content-Type: message/rfc822\r\n\r\n".encode() + draw(entities(depth=depth + 1))
    types = {"text": "text/plain", "html": "text/html; charset=utf-8", "png": "image/png", "bare": ""}
    line = f"Content-Type: {types[kind]}\r\n" if types[kind] else ""
    return f"{extra}{line}\r\n{draw(TEXT)}".encode()


def same(data: bytes, part: Part, oracle: email.message.Message) -> None:
    assert f"{part.type.decode()}/{part.subtype.decode()}" == oracle.get_content_type()
    assert len(fields(data, part.start, part.body)) == len(oracle.keys())
    if part.multipart or part.embedded:
        payload = oracle.get_payload()
        assert isinstance(payload, list) and len(payload) == len(part.parts)
        for inner, other in zip(part.parts, payload, strict=True):
            assert isinstance(other, email.message.Message)
            same(data, inner, other)
    else:
        payload = vars(oracle)["_payload"]  # raw: get_payload() decodes
        assert data[part.body : part.end] == payload.encode("ascii", "surrogateescape")


@settings(max_examples=80, deadline=None)
@given(entities())
def test_parts_are_where_the_standard_library_finds_them(data: bytes) -> None:
    same(data, parse_structure(data), email.message_from_bytes(data, policy=email.policy.compat32))
    summary = summarize(data)
    assert body_of(summary.structure).count(b"(") <= summary.structure.count(b"(")
    assert data[: summary.header_octets].endswith(b"\r\n\r\n") or data.startswith(b"\r\n")


HOSTILE = st.lists(
    st.sampled_from(
        [b"\r\n", b"\r", b"\n", b"\0", b"--", b"--b", b"--b--", b"Content-Type: multipart/mixed; boundary=b",
         b"Content-Type: message/rfc822", b"From: ", b'"', b"(", b")", b"<", b">", b"@", b"\\", b";", b"a=",
         b"To: x:", b"\xff", b" ", b":", b",", b"Content-Disposition: a;", b"Content-Language: fr, en", b"=?"]
    ) | st.binary(max_size=4),
    max_size=60,
).map(b"".join)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(HOSTILE)
def test_no_octets_whatever_break_the_summary(data: bytes) -> None:
    summary = summarize(data)
    assert b"\0" not in summary.envelope + summary.structure
    assert summary.body.startswith(b"(")
    for part in parse_structure(data).walk():
        assert 0 <= part.start <= part.body <= part.end <= len(data)


@settings(max_examples=100, deadline=None)
@given(HOSTILE)
def test_fields_cover_exactly_their_octets(data: bytes) -> None:
    end = body_offset(data)
    names = {field.name for field in fields(data)}
    for field in fields(data):
        assert data[field.start : field.value].rstrip(b": \t").lower().startswith(field.name)
        assert field.value <= field.end <= end
    assert set(values(data, frozenset(names))) == names
    chosen = pick(data, names)[:-2]
    assert b"".join(data[f.start : f.end] for f in fields(data)).rstrip(b"\r\n") == chosen.rstrip(b"\r\n")


@settings(max_examples=100, deadline=None)
@given(HOSTILE)
def test_address_lists_never_fail(data: bytes) -> None:
    for mailbox in parse_addresses(data):
        assert (mailbox.mailbox is None) <= (mailbox.host is None)


WORD = st.text("abcXYZ09!#$%&'*+-/=?^_`{|}~", min_size=1, max_size=6)
NAME = st.one_of(
    st.none(),
    WORD,
    st.lists(WORD, min_size=2, max_size=3).map(" ".join),
    st.text('abc ,;:<>@()\\"é.', min_size=1, max_size=10).map(lambda text: f'"{text}'),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(NAME, WORD, WORD), max_size=5), st.sampled_from([",", ", ", " ,\t", ",,"]))
def test_well_formed_address_lists_are_read_back(
    addresses: list[tuple[str | None, str, str]], comma: str
) -> None:
    texts = []
    expected = []
    for name, local, host in addresses:
        if name is None:
            texts.append(f"{local}@{host}")
        elif name.startswith('"'):
            quoted = name[1:].replace("\\", "\\\\").replace('"', '\\"')
            texts.append(f'"{quoted}" <{local}@{host}>')
            name = name[1:].strip() or None
        else:
            texts.append(f"{name} <{local}@{host}>")
        expected.append((name, local, host))
    found = parse_addresses(comma.join(texts).encode())
    assert [
        (
            (one.name and one.name.decode().strip()) or None,
            (one.mailbox or b"").decode(),
            (one.host or b"").decode(),
        )
        for one in found
    ] == expected
