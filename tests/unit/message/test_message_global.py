"""message/global (RFC 6532): a message for those who know it, an opaque part for all others."""

from lorrainemail.message.summary import body_of, summarize, without_global

INNER = b"From: a@b\r\nSubject: inner\r\n\r\nhello\r\n"


def test_old_clients_see_an_opaque_part_and_nothing_else_changes() -> None:
    kinds = {}
    for kind in (b"global", b"x-opaque"):
        head = (
            b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: message/%b\r\n\r\n" % kind
        )
        rest = b'\r\n--b\r\nContent-Disposition: attachment; filename="x y"\r\n\r\ntext\r\n--b--\r\n'
        kinds[kind] = summarize(head + INNER + rest).structure
    new = kinds[b"global"]
    assert b'"inner"' in new and b'"inner"' in body_of(new)
    old = without_global(new)
    assert old == kinds[b"x-opaque"].replace(b"X-OPAQUE", b"GLOBAL")
    assert body_of(old) == body_of(kinds[b"x-opaque"]).replace(b"X-OPAQUE", b"GLOBAL")


def test_an_encoded_one_is_not_looked_into() -> None:
    head = b"Content-Type: message/global\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    wire = summarize(head + INNER).structure
    assert b"inner" not in wire and without_global(wire) == wire


def test_structures_without_it_stay_as_they_are() -> None:
    plain = summarize(b"Content-Type: message/rfc822\r\n\r\n" + INNER).structure
    assert without_global(plain) is plain
