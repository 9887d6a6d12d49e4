"""Tests on the message and its envelope: address, envelope, exists, header, size (RFC 5228 §5), body (RFC
5173), with relational, subaddress, index and the MIME tags (RFC 5231, 5233, 5260 §6, 5703 §4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from lorrainemail.addresses import Address
from lorrainemail.grammar.sieve import Node
from lorrainemail.message.structure import Part, parse_parameters
from lorrainemail.sieve.compiler import MATCH_TAGS, MATCH_TYPES, Compiler, Form, Given, Tagged
from lorrainemail.sieve.message import Mailbox, mailboxes, part_values, text_of
from lorrainemail.sieve.run import Check, Run, RunError

#: RFC 5228 §5.1: fields that hold addresses; "x-" ones may.
ADDRESS_FIELDS: Final = frozenset(
    {
        "from", "to", "cc", "bcc", "sender", "reply-to", "resent-from", "resent-to", "resent-cc",
        "resent-bcc", "resent-sender", "resent-reply-to", "return-path", "delivered-to", "envelope-to",
        "errors-to", "disposition-notification-to", "return-receipt-to", "mail-reply-to", "mail-followup-to",
        "approved", "apparently-to", "original-to", "for-approval", "for-comment", "for-handling",
    }
)  # fmt: skip

PART_TAGS: Final = {
    "all": Tagged(),
    "localpart": Tagged(),
    "domain": Tagged(),
    "user": Tagged("", "subaddress"),
    "detail": Tagged("", "subaddress"),
}
INDEX_TAGS: Final = {"index": Tagged("number", "index"), "last": Tagged("", "index")}
MIME_TAGS: Final = {"mime": Tagged("", "mime"), "anychild": Tagged("", "mime")}
MIME_OPTIONS: Final = {
    "type": Tagged("", "mime"),
    "subtype": Tagged("", "mime"),
    "contenttype": Tagged("", "mime"),
    "param": Tagged("strings", "mime"),
}
_PARTS: Final = frozenset(PART_TAGS)
_NAME: Final = frozenset(map(chr, range(33, 127))) - {":"}

#: Takes one part out of an address; None where the address has none, so that nothing matches.
Slice = Callable[[Run, Mailbox], str | None]


def is_field_name(name: str) -> bool:
    """RFC 5322 §2.2."""
    return bool(name) and all(c in _NAME for c in name)


# -- where values come from -----------------------------------------------------------------------------


def index_of(compiler: Compiler, node: Node, given: Given) -> int:
    """:index as a Python index, from the end with :last; 0 stands for all. (RFC 5260 §6)"""
    index: int = given.get("index", 0)
    if "index" not in given:
        if "last" in given:
            compiler.fail(node, ":last needs :index")
        return 0
    if not 1 <= index <= 1 << 31:
        compiler.fail(node, ":index counts from 1")
    return -index if "last" in given else index


def pick(values: list[bytes], index: int) -> list[bytes]:
    """The value that :index means, or all."""
    if not index:
        return values
    place = index - 1 if index > 0 else len(values) + index
    return [values[place]] if 0 <= place < len(values) else []


def raw_values(compiler: Compiler, node: Node, given: Given) -> Callable[[Run, str], list[bytes]]:
    """How the unfolded values of a field are found: in the message, or (:mime) in its parts."""
    index = index_of(compiler, node, given)
    if "mime" not in given:
        if "anychild" in given:
            compiler.fail(node, ":anychild needs :mime")
        return lambda run, name: pick(run.message.raw(name), index)
    any_child = "anychild" in given
    compiler.shared.needs.add("body")

    def of_parts(run: Run, name: str) -> list[bytes]:
        values: list[bytes] = []
        for part in mime_parts(run, any_child):
            values += part_values(run.whole if run.part is not None else run.message.data, part, name)
        return pick(values, index)

    return of_parts


def mime_parts(run: Run, any_child: bool) -> Iterator[Part]:
    """The parts that :mime looks at: the current one (of foreverypart) or the message, or all below too."""
    top = run.part if run.part is not None else run.message.structure
    if not any_child:
        yield top
        return
    for part in top.walk():
        run.work.spend(16)
        yield part


# -- addresses ------------------------------------------------------------------------------------------


def address_slice(given: Given) -> tuple[str, Slice]:
    """The part of an address that a test is about, and how it is taken."""
    name = next((tag for tag in given.tags if tag in _PARTS), "all")
    return name, _SLICES[name]


def _all(run: Run, mailbox: Mailbox) -> str | None:
    return str(mailbox)


def _local(run: Run, mailbox: Mailbox) -> str | None:
    return mailbox.local


def _domain(run: Run, mailbox: Mailbox) -> str | None:
    return mailbox.domain or None


def _separator(run: Run, local: str) -> int:
    places = [at for at in (local.find(mark) for mark in run.context.separators) if at > 0]
    return min(places, default=-1)


def _user(run: Run, mailbox: Mailbox) -> str | None:
    """RFC 5233 §4."""
    at = _separator(run, mailbox.local)
    return mailbox.local if at < 0 else mailbox.local[:at]


def _detail(run: Run, mailbox: Mailbox) -> str | None:
    at = _separator(run, mailbox.local)
    return None if at < 0 else mailbox.local[at + 1 :]


_SLICES: Final[dict[str, Slice]] = {
    "all": _all,
    "localpart": _local,
    "domain": _domain,
    "user": _user,
    "detail": _detail,
}


def _address(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5228 §5.1."""
    names = given.values[0]
    for name in names:
        if isinstance(name, str) and name.lower() not in ADDRESS_FIELDS and not name.lower().startswith("x-"):
            compiler.fail(node, f'the field "{name}" holds no addresses')
    matching = compiler.matching(node, given, given.values[1])
    find = raw_values(compiler, node, given)
    _, take = address_slice(given)

    def values(run: Run) -> Iterator[str]:
        for name in run.texts(names):
            for value in find(run, name):
                run.work.spend((len(value) >> 2) + 1)
                for mailbox in mailboxes(value):
                    part = take(run, mailbox)
                    if part is not None:
                        yield part

    return lambda run: matching.any(run, values(run))


def _envelope(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5228 §5.4."""
    names = given.values[0]
    for name in names:
        if isinstance(name, str) and name.lower() not in ("from", "to", "auth"):
            compiler.fail(node, f'the envelope has no "{name[:60]}"')
    matching = compiler.matching(node, given, given.values[1])
    slice_name, take = address_slice(given)

    def values(run: Run) -> Iterator[str]:
        for name in run.texts(names):
            wanted = name.lower()
            if wanted == "auth":
                if run.envelope.auth:
                    yield run.envelope.auth
                continue
            if wanted not in ("from", "to"):
                raise RunError(f'the envelope has no "{name[:60]}"')
            address: Address | None = run.envelope.sender if wanted == "from" else run.envelope.recipient
            if address is None:
                if slice_name != "detail":
                    yield ""  # the null reverse-path, whatever part is asked for
                continue
            part = take(run, Mailbox(address.local, address.domain))
            if part is not None:
                yield part

    return lambda run: matching.any(run, values(run))


# -- fields ---------------------------------------------------------------------------------------------


def _exists(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5228 §5.5."""
    names = given.values[0]
    find = raw_values(compiler, node, given)
    return lambda run: all(find(run, name) for name in run.texts(names))


def _header(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5228 §5.7."""
    names = given.values[0]
    matching = compiler.matching(node, given, given.values[1])
    find = raw_values(compiler, node, given)
    options = [name for name in given.tags if name in MIME_OPTIONS]
    if options:
        if "mime" not in given:
            compiler.fail(node, f":{options[0]} needs :mime")
        option, parameters = options[0], given.get("param", ())

        def pieces(run: Run) -> Iterator[str]:
            wanted = [name.lower() for name in run.texts(parameters)] if option == "param" else []
            for name in run.texts(names):
                for value in find(run, name):
                    yield from mime_option(name.lower(), value, option, wanted)

        return lambda run: matching.any(run, pieces(run))

    def values(run: Run) -> Iterator[str]:
        for name in run.texts(names):
            for value in find(run, name):
                run.work.spend((len(value) >> 4) + 1)
                yield text_of(value)

    return lambda run: matching.any(run, values(run))


def mime_option(name: str, value: bytes, option: str, wanted: Sequence[str]) -> Iterator[str]:
    """Pieces of a Content-Type or Content-Disposition (RFC 5703 §4.1)."""
    main, _, _ = value.partition(b";")
    kind, slash, subtype = main.strip().decode("utf-8", "replace").lower().partition("/")
    if option == "type":
        yield kind.strip()
    elif option == "subtype":
        yield subtype.strip() if name == "content-type" else ""
    elif option == "contenttype":
        yield f"{kind.strip()}{slash}{subtype.strip()}"
    else:
        at = value.find(b";")
        for key, found in parse_parameters(value, at) if at >= 0 else ():
            if key.decode("ascii", "replace").lower() in wanted:
                yield text_of(found)


def _size(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5228 §5.9."""
    limit = given.values[0]
    if "over" in given:
        return lambda run: run.message.size > limit
    if "under" in given:
        return lambda run: run.message.size < limit
    compiler.fail(node, '"size" needs :over or :under')


# -- the body -------------------------------------------------------------------------------------------


def _body(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5173 §4. Its wildcards set no match variables (§6)."""
    matching = compiler.matching(node, given, given.values[0], capture=False)
    compiler.shared.needs.add("body")
    types = given.get("content")

    def values(run: Run) -> list[str]:
        run.work.spend(run.message.size >> 9)
        if "raw" in given:
            return [run.message.raw_body]
        if types is not None:
            return run.message.contents(tuple(run.texts(types)))
        return run.message.texts()

    return lambda run: matching.any(run, values(run))


_MATCH_GROUP: Final = (MATCH_TYPES,)

TESTS: Final = {
    "address": Form(
        _address,
        {**MATCH_TAGS, **PART_TAGS, **INDEX_TAGS, **MIME_TAGS},
        (MATCH_TYPES, _PARTS),
        ("strings", "strings"),
    ),
    "envelope": Form(
        _envelope,
        {**MATCH_TAGS, **PART_TAGS},
        (MATCH_TYPES, _PARTS),
        ("strings", "strings"),
        extension="envelope",
    ),
    "exists": Form(_exists, MIME_TAGS, (), ("strings",)),
    "header": Form(
        _header,
        {**MATCH_TAGS, **INDEX_TAGS, **MIME_TAGS, **MIME_OPTIONS},
        (MATCH_TYPES, frozenset(MIME_OPTIONS)),
        ("strings", "strings"),
    ),
    "size": Form(_size, {"over": Tagged(), "under": Tagged()}, (frozenset({"over", "under"}),), ("number",)),
    "body": Form(
        _body,
        {**MATCH_TAGS, "raw": Tagged(), "content": Tagged("strings"), "text": Tagged()},
        (MATCH_TYPES, frozenset({"raw", "content", "text"})),
        ("strings",),
        extension="body",
    ),
}
