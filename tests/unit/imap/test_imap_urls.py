"""IMAP URLs: what they mean, and that nothing of another form is taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.imap.urls import MAX_URL, BadUrl, parse_url


@pytest.mark.parametrize(
    ("text", "mailbox", "validity", "uid", "path", "part", "window"),
    [
        (
            b"/Drafts;UIDVALIDITY=385759045/;UID=20/;section=HEADER",
            "Drafts",
            385759045,
            20,
            (),
            "HEADER",
            None,
        ),
        (b"/Drafts;UIDVALIDITY=385759045/;UID=20/;Section=1.2", "Drafts", 385759045, 20, (1, 2), "", None),
        (b"/inbox/;uid=7", "INBOX", 0, 7, (), "", None),
        (b"/%C3%A9t%C3%A9/2026/;UID=3/;PARTIAL=10.20", "été/2026", 0, 3, (), "", (10, 20)),
        (b";UID=3/;SECTION=2.MIME", None, 0, 3, (2,), "MIME", None),
        (b"imap://bob%40ours.test;AUTH=*@mail.ours.test:143/INBOX/;UID=3", "INBOX", 0, 3, (), "", None),
    ],
)
def test_a_url_means_a_message_or_a_part_of_it(
    text: bytes,
    mailbox: str | None,
    validity: int,
    uid: int,
    path: tuple[int, ...],
    part: str,
    window: tuple[int, int] | None,
) -> None:
    found = parse_url(text)
    assert (found.mailbox, found.uid_validity, found.uid) == (mailbox, validity, uid)
    assert (found.item.path, found.item.text) == (path, part)
    assert (None if found.item.offset is None else (found.item.offset, found.item.count)) == window


def test_the_server_and_the_user_of_an_absolute_url_are_told() -> None:
    found = parse_url(b"imap://bob%40ours.test;AUTH=*@Mail.Ours.Test/INBOX/;UID=3")
    assert (found.server, found.user) == ("mail.ours.test", "bob@ours.test")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"/INBOX",
        b"/INBOX/;UID=x",
        b"imap://mail.ours.test/;UID=1",
        b"imaps://mail.ours.test/INBOX/;UID=1",
        b"http://mail.ours.test/",
        b"/INBOX/;UID=1/;SECTION=NONSENSE",
        b"/INBOX/;UID=1/;SECTION=%5D%20BODY%5B",
        b"/IN%00BOX/;UID=1",
        b"/%FF/;UID=1",
        b"/" + b"x" * MAX_URL + b"/;UID=1",
        b"/INBOX;UIDVALIDITY=1/;UID=1;EXPIRE=x;URLAUTH=anonymous",
    ],
)
def test_anything_else_leads_nowhere(text: bytes) -> None:
    with pytest.raises(BadUrl):
        parse_url(text)


@given(
    st.lists(
        st.sampled_from(
            [b"/", b";", b"UID=", b"1", b"INBOX", b"SECTION=", b"%", b"41", b"imap://", b"@", b"."]
        )
    )
)
def test_no_octets_break_it(parts: list[bytes]) -> None:
    try:
        parse_url(b"".join(parts))
    except BadUrl:
        pass
