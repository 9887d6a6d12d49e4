"""QUOTA (RFC 9208), and messages with NUL (RFC 3516 §4.4)."""

from __future__ import annotations

from typing import Any

import attrs


def limited(door: Any, octets: int, messages: int) -> Any:
    client = door.selected()
    home = client.session.home
    home.account = attrs.evolve(home.account, quota=octets, quota_messages=messages)
    return client


def test_a_quota_is_told_with_its_use(door: Any) -> None:
    door.put("Subject: x\n\n" + "x" * 2000, "Subject: y\n\n")
    client = limited(door, 10 * 1024, 50)
    assert client.say("a GETQUOTAROOT INBOX") == [
        '* QUOTAROOT INBOX "User quota"',
        '* QUOTA "User quota" (STORAGE 2 10 MESSAGE 2 50)',
        "a OK GETQUOTAROOT completed",
    ]
    client = limited(door, 0, 3)
    assert client.say('b GETQUOTA "User quota"') == [
        '* QUOTA "User quota" (MESSAGE 2 3)',
        "b OK GETQUOTA completed",
    ]


def test_an_account_without_limits_has_no_quota_root(door: Any) -> None:
    client = door.selected()
    assert client.say("a GETQUOTAROOT INBOX") == ["* QUOTAROOT INBOX", "a OK GETQUOTAROOT completed"]
    assert client.say('b GETQUOTA "User quota"') == ["b NO [NONEXISTENT] No such quota root"]


def test_quota_commands_that_cannot_be_had_are_refused(door: Any) -> None:
    client = limited(door, 10_000, 0)
    assert client.say("a GETQUOTA other") == ["a NO [NONEXISTENT] No such quota root"]
    assert client.say("b GETQUOTAROOT Nowhere")[0].startswith("b NO [NONEXISTENT]")
    assert client.say('c SETQUOTA "User quota" (STORAGE 512)')[0].startswith("c NO [NOPERM]")
    assert client.say("d SETQUOTA x STORAGE 512")[0].startswith("d BAD")


def test_the_octets_that_an_expunge_would_free(door: Any) -> None:
    door.put("Subject: x\n\n", "Subject: longer\n\n", "Subject: z\n\n")
    door.folder().change_flags([1, 2], "add", ["\\Deleted"])
    client = door.client().login()
    expected = len("Subject: x\r\n\r\n") + len("Subject: longer\r\n\r\n")
    assert client.say("a STATUS INBOX (DELETED DELETED-STORAGE)")[0] == (
        f"* STATUS INBOX (DELETED 2 DELETED-STORAGE {expected})"
    )


def test_a_literal8_with_nul_is_refused_and_the_session_goes_on(door: Any) -> None:
    client = door.selected()
    said = client.say(b"a APPEND INBOX ~{16+}\r\nSubject: a\r\n\r\n\0\1\r\nb NOOP\r\n")
    assert said[0].startswith("a NO [UNKNOWN-CTE]") and said[-1] == "b OK NOOP completed"
    assert list(door.folder().uids()) == []
