"""The classifier: learned from little, measured on a generated corpus, and why it says what it says."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import succeed

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Recipient, Session
from lorrainemail.filters import classifier_file
from lorrainemail.filters.classifier import Classifier
from lorrainemail.filters.classifier_file import ClassifierFile
from lorrainemail.filters.words import MAX_WORDS, words_of
from lorrainemail.interfaces import Accepted, Account, Action, Circumstances, Expansion, LocalMailbox
from lorrainemail.ops.content import Content

NO: Any = None


class Corpus:
    """Mail of a small firm and junk: common words of which most are shared, some of either kind."""

    def __init__(self, seed: int = 7) -> None:
        self.random = random.Random(seed)
        self.common = [f"word{number}" for number in range(3000)]
        self.work = [f"shelf{number}" for number in range(300)]
        self.junk = [f"offer{number}" for number in range(300)]
        self.friends = [f"friend{number}@firm{number % 9}.example" for number in range(40)]

    def _text(self, own: list[str], share: float, length: int) -> str:
        pick = self.random
        # As in language, few words are most of a text.
        words = [
            pick.choice(own) if pick.random() < share else self.common[int(3000 * pick.random() ** 3)]
            for _ in range(length)
        ]
        return " ".join(words)

    def good(self) -> bytes:
        text = self._text(self.work, 0.08, self.random.randint(20, 150))
        sender = self.random.choice(self.friends)
        head = f"From: {sender}\r\nSubject: {self._text(self.work, 0.3, 4)}\r\n"
        return f"{head}Authentication-Results: x; spf=pass; dkim=pass\r\n\r\n{text}\r\n".encode()

    def bad(self) -> bytes:
        pick = self.random
        # A fifth of it is dressed up as work.
        own = self.junk if pick.random() > 0.2 else self.junk + self.work
        text = self._text(own, 0.12, pick.randint(20, 150))
        sender = f"x{pick.randint(0, 10**6)}@host{pick.randint(0, 500)}.example"
        link = f"http://host{pick.randint(0, 60)}.evil.example/"
        result = pick.choice(["spf=pass", "spf=fail", "spf=none"])
        head = (
            f"From: {sender}\r\nSubject: {self._text(own, 0.3, 5)}\r\nAuthentication-Results: x; {result}\r\n"
        )
        return f"{head}Content-Type: text/html\r\n\r\n<p>{text} <a href='{link}'>x</a></p>\r\n".encode()


def taught(home: Path, corpus: Corpus, each: int) -> ClassifierFile:
    file = ClassifierFile(str(home))
    for number in range(each):
        file.learn(f"g{number}", words_of(corpus.good()), False)
        file.learn(f"b{number}", words_of(corpus.bad()), True)
    return file


@pytest.mark.parametrize(("each", "found"), [(20, 0.2), (150, 0.75)])
def test_of_a_generated_corpus_nothing_good_is_taken_for_junk_and_most_junk_is_found(
    tmp_path: Path, each: int, found: float
) -> None:
    corpus = Corpus()
    file = taught(tmp_path, corpus, each)
    good = [file.judge(words_of(corpus.good())) for _ in range(150)]
    bad = [file.judge(words_of(corpus.bad())) for _ in range(150)]
    assert sum(one.junk for one in good) <= 1
    assert sum(one.junk for one in bad) >= found * 150
    assert file.totals() == (each, each)
    assert (tmp_path / "classifier.sqlite").stat().st_mode & 0o777 == 0o600


def test_it_says_which_words_decided(tmp_path: Path) -> None:
    file = ClassifierFile(str(tmp_path))
    for number in range(6):
        file.learn(f"g{number}", {"shelf", "from:elorac.fr", "the"}, False)
        file.learn(f"b{number}", {"offer", "host:evil.example", "the"}, True)
    judged = file.judge({"offer", "host:evil.example", "the", "new"})
    assert judged.junk and {word for word, _ in judged.deciding} == {"offer", "host:evil.example"}
    assert "offer 97 %" in str(judged) and "the" not in str(judged)
    assert not file.judge({"shelf", "from:elorac.fr"}).junk
    assert file.judge(set()).score == 0.5


def test_it_says_nothing_before_it_learned_enough_of_both(tmp_path: Path) -> None:
    file = ClassifierFile(str(tmp_path))
    assert file.judge({"offer"}).score is None
    assert not (tmp_path / "classifier.sqlite").exists()
    for number in range(50):
        file.learn(str(number), {"offer"}, True)
    judged = file.judge({"offer"})
    assert judged.score is None and "50 junk, 0 other" in str(judged)


def test_a_message_counts_once_and_one_moved_back_is_unlearned(tmp_path: Path) -> None:
    file = ClassifierFile(str(tmp_path))
    assert file.learn("m", {"a"}, True) and not file.learn("m", {"a"}, True)
    assert file.totals() == (1, 0)
    assert file.learn("m", {"a"}, False)
    assert file.totals() == (0, 1)


def test_the_file_stays_within_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier_file, "MAX_WORDS", 100)
    monkeypatch.setattr(classifier_file, "MAX_LEARNED", 10)
    file = ClassifierFile(str(tmp_path))
    for number in range(40):
        file.learn(str(number), {"often", *(f"w{number}.{one}" for one in range(10))}, True)
    import sqlite3

    connection = sqlite3.connect(tmp_path / "classifier.sqlite")
    (words,) = connection.execute("SELECT count(*) FROM word").fetchone()
    (often,) = connection.execute("SELECT junk FROM word WHERE word = 'often'").fetchone()
    (learned,) = connection.execute("SELECT count(*) FROM learned").fetchone()
    connection.close()
    assert words <= 100 and often == 40 and learned <= 11


def test_each_recipient_has_his_own_opinion(tmp_path: Path) -> None:
    for name in ("bob", "eve"):
        (tmp_path / "x.org" / name).mkdir(parents=True)
    bad = b"From: x@evil.example\r\nSubject: offer\r\n\r\noffer offers\r\n"
    file = ClassifierFile(str(tmp_path / "x.org" / "bob"))
    for number in range(6):
        file.learn(f"b{number}", words_of(bad), True)
        file.learn(f"g{number}", {"shelf"}, False)
    check = Classifier(str(tmp_path), lambda work: succeed(work()))

    def judge(*names: str, account: str = "") -> Any:
        finals = [LocalMailbox(Account(parse_address(n)), "", parse_address(n)) for n in names]
        accepted = tuple(Accepted(Recipient(one.address), Expansion(True, (one,))) for one in finals)
        session = Session("s", "smtp", "192.0.2.1", account=account)
        answer: Any = check.judge(Circumstances("data", session, NO, content=Content(bad), accepted=accepted))
        return None if answer is None else answer.result

    alone = judge("bob@x.org")
    assert alone.action is Action.JUNK and "from:evil.example" in alone.reason
    both = judge("bob@x.org", "eve@x.org")
    assert both.each == (Action.JUNK, Action.CONTINUE) and both.action is Action.CONTINUE
    assert judge("eve@x.org").action is Action.CONTINUE
    assert judge("bob@x.org", account="carol@x.org") is None
    assert not os.path.exists(tmp_path / "x.org" / "eve" / "classifier.sqlite")


def test_words_are_found_in_whatever_a_message_is_packed_in() -> None:
    import base64

    text = base64.encodebytes("<b>Étagère</b><style>x{}</style> http://Evil.Example/a".encode()).decode()
    message = (
        "From: =?utf-8?q?X?= <X@Evil.example>\r\nSubject: =?utf-8?b?w4l0YWfDqHJl?=\r\n"
        'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: text/html; charset=utf-8\r\n'
        f"Content-Transfer-Encoding: base64\r\n\r\n{text}\r\n--b\r\n"
        'Content-Type: application/zip; name="a.zip"\r\n\r\nx\r\n--b--\r\n'
    ).encode()
    found = words_of(message)
    assert {"from:evil.example", "subject:étagère", "étagère", "host:evil.example", "file:zip"} <= found


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000))
def test_any_octets_have_words_within_bounds(octets: bytes) -> None:
    assert len(words_of(octets)) <= MAX_WORDS + 200


@pytest.mark.parametrize("charset", ["undefined", "idna", '"a\0b"', "punycode", "rot13", "no-such"])
def test_a_strange_character_set_costs_no_word(charset: str) -> None:
    head = f"From: a@b.example\r\nSubject: =?{charset}?q?greetings?=\r\n"
    head += f"Content-Type: text/plain; charset={charset}"
    found = words_of(f"{head}\r\n\r\ncaf\xe9 holidays\r\n".encode("latin-1"))
    assert {"holidays", "from:b.example"} <= found


@pytest.mark.parametrize("part", [b"multipart/mixed; boundary=%d\r\n\r\n--%d", b"message/rfc822\r\n"])
def test_a_message_nested_beyond_reason_is_judged_by_its_header(part: bytes) -> None:
    nested = b"".join(
        b"Content-Type: " + (part % (number, number) if b"%" in part else part) + b"\r\n"
        for number in range(2500)
    )
    assert "subject:offer" in words_of(b"From: a@b.example\r\nSubject: offer\r\n" + nested)


def test_markup_is_looked_at_a_few_times_however_it_is_written() -> None:
    head = b"From: a@b.example\r\nContent-Type: text/html\r\n\r\n"
    html = b"one <style type='x'>hidden { }</style> two <b title='q'>three</b> <script>four</SCRIPT> five"
    words = {word for word in words_of(head + html) if ":" not in word}
    assert words == {"one", "two", "three", "five"}
    # An open style hides nothing, and thousands of them are no more work than one.
    assert "seen" in words_of(head + b"<style " * 8000 + b"> seen")
