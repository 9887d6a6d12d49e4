"""How searches compare text."""

import pytest

from lorrainemail.message.collation import fold, plain
from lorrainemail.message.searchable import grams, message_grams


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ÉTÉ", "été"),
        ("e\u0301te\u0301", "été"),  # RFC 5051 §2: decomposed
        ("ﬁn", "FIN"),  # compatibility mappings count
        ("ΣΟΦΟΣ", "σοφος"),
        ("Ǆ", "ǆ"),
        ("\u212b", "å"),
        ("①", "1"),
    ],
)
def test_texts_that_are_one_to_a_reader_are_equal(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(("one", "other"), [("été", "ete"), ("ß", "ss"), ("a", "b")])
def test_texts_that_the_comparator_tells_apart_stay_apart(one: str, other: str) -> None:
    assert fold(one) != fold(other)


def test_the_looser_form_takes_accents_off() -> None:
    assert plain("Été à la PLAGE") == "ete a la plage" == plain("e\u0301te\u0301 a la plage")


def test_grams_stay_within_words() -> None:
    assert grams("Les volets") == {"les", "vol", "ole", "let", "ets"}
    assert grams("ab cd") == set()


def test_every_text_of_a_message_has_its_grams() -> None:
    message = (
        b"Subject: =?utf-8?q?caf=C3=A9?=\r\nX-Odd: \xff\xc3\xa9tag\xc3\xa8re\r\n"
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
        b"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        b"r=E9union\r\n--b\r\nContent-Type: text/x-log\r\nContent-Disposition: attachment\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\nd29yZA==\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n"
        b"Subject: inner\r\n\r\ndeep\r\n--b--\r\n"
    )
    found = message_grams(message)
    assert found is not None
    for word in ("café", "réunion", "word", "inner", "deep"):
        assert grams(word) <= found, word


def test_of_a_message_beyond_the_bound_nobody_says_anything() -> None:
    assert message_grams(b"Subject: x\r\n\r\n" + b"x" * (2 << 20)) is None
