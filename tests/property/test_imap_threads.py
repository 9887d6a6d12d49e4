"""SORT and THREAD over anything that headers may claim."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from lorrainemail.imap import order, threads


class Session:
    """What slicing needs of one."""

    async def breathe(self) -> None:
        """Nobody else is here."""


def run(work: Any) -> Any:
    out: list[Any] = []
    Deferred.fromCoroutine(work).addCallback(out.append)
    assert out, "it waits for something"
    return out[0]


IDS = st.integers(0, 7).map(lambda n: b"<%d@x>" % n)
MESSAGES = st.lists(
    st.builds(
        lambda own, refs, subject, reply, sent: (sent, 5, subject, reply, own, b"", b" ".join(refs)),
        st.one_of(st.just(b""), IDS),
        st.lists(IDS, max_size=4),
        st.sampled_from(["", "A", "B"]),
        st.booleans(),
        st.integers(0, 3),
    ),
    max_size=14,
)


@given(MESSAGES, st.integers(1, 5))
def test_every_message_is_in_one_thread_whatever_headers_refer_to(
    messages: list[tuple[Any, ...]], turn: int
) -> None:
    before = threads.TURN
    threads.TURN = turn  # type: ignore[misc]
    try:
        facts = [(number, *message) for number, message in enumerate(messages, 1)]
        session: Any = Session()
        roots = run(threads.by_references(session, threads.Work(session), facts))
        assert [root.key for root in roots] == sorted(root.key for root in roots)
        alone = run(threads.by_references_alone(session, threads.Work(session), facts))
        subjects = run(threads.by_subject(session, threads.Work(session), facts))
        for lines in (
            map(threads.printed, roots),
            map(threads.printed, alone),
            map(threads.printed_subject, subjects),
        ):
            text = b"".join(lines).decode()
            assert sorted(map(int, re.findall(r"\d+", text))) == list(range(1, len(messages) + 1))
            assert text.count("(") == text.count(")")
            assert not re.search(r"\(\)|  |\( |\((\(\d+\))\)", text), text
    finally:
        threads.TURN = before  # type: ignore[misc]


def test_a_chain_of_any_length_is_printed_without_recursion() -> None:
    facts = [(n, None, n, "", False, b"<%d@x>" % n, b"", b"<%d@x>" % (n + 1)) for n in range(1, 5001)]
    session: Any = Session()
    roots = run(threads.by_references(session, threads.Work(session), facts))
    text = b"".join(map(threads.printed, roots))
    assert len(re.findall(rb"\d+", text)) == 5000


@given(st.lists(st.tuples(st.integers(0, 3), st.text(max_size=2), st.integers())), st.integers(1, 4))
def test_sorting_in_parts_gives_what_sorting_at_once_does(entries: list[Any], part: int) -> None:
    before = order.PART
    order.PART = part  # type: ignore[misc]
    try:
        session: Any = Session()
        places = run(order.sliced_order(session, entries))
        assert places == sorted(range(len(entries)), key=entries.__getitem__)
    finally:
        order.PART = before  # type: ignore[misc]
