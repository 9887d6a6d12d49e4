"""The queue's files: whatever is accepted survives them, whatever is damaged is told as damaged."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.envelope import Envelope, Parameter, Recipient
from lorrainemail.interfaces import QueueItem, QueueRecipient
from lorrainemail.queue.format import FormatError, Stored, decode, encode, peek

TEXT = st.text(max_size=40)
LOCALS = st.one_of(
    st.from_regex(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}", fullmatch=True),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20),
    st.text(st.characters(min_codepoint=0xA1, max_codepoint=0x24F), min_size=1, max_size=10),
)


def address(local: str) -> Address | None:
    try:
        return parse_address(str(Address(local, "bricoleur.com")))
    except AddressError:
        return None


ADDRESSES = st.one_of(
    LOCALS.map(address).filter(lambda found: found is not None), st.just(Address("postmaster", ""))
)
PARAMETERS = st.lists(
    st.builds(Parameter, st.from_regex("[A-Z0-9-]{1,10}", fullmatch=True), st.none() | TEXT), max_size=3
).map(tuple)
RECIPIENTS = st.builds(
    QueueRecipient,
    courier=st.sampled_from(["remote", "local"]),
    recipient=st.builds(
        Recipient,
        address=ADDRESSES,
        original=TEXT,
        notify=st.none() | st.lists(st.sampled_from(["SUCCESS", "FAILURE", "DELAY", "NEVER"])).map(tuple),
        orcpt=TEXT,
        parameters=PARAMETERS,
    ),
    folder=TEXT,
    forwarded=st.booleans(),
    state=st.sampled_from(["waiting", "held", "done"]),
    attempts=st.integers(0, 1000),
    next_try=st.integers(0, 2**33).map(float),
    last_reply=TEXT,
    delay_told=st.booleans(),
)


@st.composite
def items(draw: st.DrawFn) -> Stored:
    recipients = tuple(draw(st.lists(RECIPIENTS, min_size=1, max_size=4)))
    envelope = Envelope(
        id=draw(st.from_regex("[0-9a-z]{17}", fullmatch=True)),
        sender=draw(st.none() | ADDRESSES),
        recipients=tuple(one.recipient for one in recipients),
        size=draw(st.integers(0, 2**40)),
        body=draw(st.sampled_from(["7BIT", "8BITMIME"])),
        smtputf8=draw(st.booleans()),
        ret=draw(st.sampled_from(["", "FULL", "HDRS"])),
        envid=draw(TEXT),
        parameters=draw(PARAMETERS),
        received_at=float(draw(st.integers(0, 2**33))),
        hops=draw(st.integers(0, 100)),
        sender_verified=draw(st.booleans()),
    )
    item = QueueItem(
        envelope,
        recipients,
        float(draw(st.integers(0, 2**33))),
        draw(st.integers(0, 2**40)),
        draw(TEXT),
        draw(TEXT),
        draw(st.booleans()),
    )
    return Stored(item, draw(st.booleans()), float(draw(st.integers(0, 10**6))))


@settings(max_examples=50, deadline=None)
@given(items())
def test_every_item_comes_back_as_it_went(stored: Stored) -> None:
    assert decode(encode(stored)) == stored


@settings(max_examples=50, deadline=None)
@given(items())
def test_the_first_look_agrees_with_the_second(stored: Stored) -> None:
    identity, age, next_try = peek(encode(stored))
    assert (identity, age) == (stored.item.envelope.id, stored.age)
    waiting = [one.next_try for one in stored.item.recipients if one.state == "waiting"]
    assert next_try == min(waiting, default=float("inf"))


@settings(max_examples=50, deadline=None)
@given(items(), st.data())
def test_damage_is_said_and_never_anything_else(stored: Stored, data: st.DataObject) -> None:
    octets = bytearray(encode(stored))
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    for read in (decode, peek):
        try:
            read(bytes(octets[: data.draw(st.integers(0, len(octets)))]))
        except FormatError:
            pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(items(), st.data())
def test_values_of_wrong_kinds_are_damage_too(stored: Stored, data: st.DataObject) -> None:
    document = json.loads(encode(stored))
    for place in (document, document["envelope"], document["recipients"][0]):
        if data.draw(st.booleans()):
            place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    for read in (decode, peek):
        try:
            read(json.dumps(document).encode())
        except FormatError:
            pass


@given(st.floats(0, 2**33))
def test_nothing_is_tried_before_its_time_because_it_was_written_down(instant: float) -> None:
    item = QueueItem(
        Envelope("1a", None, ()),
        (QueueRecipient("future", Recipient(Address("bob", "x.org")), next_try=instant),),
        queued_at=0.0,
        size=0,
    )
    (back,) = decode(encode(Stored(item))).item.recipients
    assert instant - 1e-5 <= back.next_try <= instant + 0.11
