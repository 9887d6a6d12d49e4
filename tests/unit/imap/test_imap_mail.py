"""Folders and messages as clients see them."""

from __future__ import annotations

import email
from typing import Any

import pytest
from twisted.internet.defer import fail, succeed

from lorrainemail.errors import Reply, TemporaryError
from lorrainemail.store.failures import gone
from lorrainemail.store.memory import MemoryContent, MemoryMessage

PLAIN = (
    "Received: by x; Mon, 1 Jan 2024 00:00:00 +0000\n"
    "Date: Wed, 17 Jul 1996 02:23:25 -0700\n"
    "From: Terry Gray <gray@cac.washington.edu>\n"
    "Subject: =?utf-8?q?R=C3=A9union?= of\n"
    " the group\n"
    "To: imap@cac.washington.edu\n"
    "Received: by y; Mon, 1 Jan 2024 00:00:00 +0000\n"
    "\n"
    "line one\n"
    "line two\n"
)
MULTI = (
    "From: a@b\n"
    "Subject: parts\n"
    "MIME-Version: 1.0\n"
    'Content-Type: multipart/mixed; boundary="xx"\n'
    "\n"
    "preamble\n"
    "--xx\n"
    "Content-Type: text/plain; charset=iso-8859-1\n"
    "Content-Transfer-Encoding: quoted-printable\n"
    "\n"
    "caf=E9 noir\n"
    "--xx\n"
    "Content-Type: message/rfc822\n"
    "\n"
    "Subject: inner\n"
    "From: c@d\n"
    'Content-Type: multipart/alternative; boundary="yy"\n'
    "\n"
    "--yy\n"
    "\n"
    "inner plain\n"
    "--yy\n"
    "Content-Type: text/html\n"
    "Content-Transfer-Encoding: base64\n"
    "\n"
    "PHA+YmFzZSBzaXh0eS1mb3VyPC9wPgo=\n"
    "--yy--\n"
    "--xx--\n"
    "epilogue\n"
)


def fetched(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("* ") and " FETCH " in line]


def literal(client: Any, command: str) -> bytes:
    """The octets of the first literal in the answer."""
    client.session.dataReceived(command.encode() + b"\r\n")
    text = "\r\n".join(client.read()).encode("latin-1")
    head, _, rest = text.partition(b"}\r\n")
    return rest[: int(head.rpartition(b"{")[2])]


# -- SELECT ------------------------------------------------------------------------------------------


def test_select_says_everything_that_a_client_needs(door: Any) -> None:
    door.put(PLAIN, PLAIN, PLAIN)
    door.folder().change_flags([1], "add", ["\\Seen", "$Work"])
    client = door.client().login()
    assert client.say("a SELECT inbox") == [
        "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Work)",
        "* OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Work \\*)] Flags kept",
        "* 3 EXISTS",
        "* 3 RECENT",
        "* OK [UNSEEN 2] First unseen",
        "* OK [UIDVALIDITY 1001] UIDs valid",
        "* OK [UIDNEXT 4] Next UID",
        "* OK [HIGHESTMODSEQ 5] Highest",
        "* OK [MAILBOXID (M1001)] Its id",
        "a OK [READ-WRITE] SELECT completed",
    ]
    second = door.client().login()
    assert "* 0 RECENT" in second.say("a SELECT INBOX")


def test_examine_changes_nothing(door: Any) -> None:
    door.put(PLAIN)
    client = door.client().login()
    said = client.say("a EXAMINE INBOX")
    assert "* 1 RECENT" in said and "* OK [PERMANENTFLAGS ()] Flags kept" in said
    door.put(PLAIN)
    assert client.say("e NOOP")[:2] == ["* 2 EXISTS", "* 2 RECENT"]
    assert said[-1] == "a OK [READ-ONLY] EXAMINE completed"
    client.say("b FETCH 1 BODY[]")
    assert "\\Seen" not in door.folder().flags(1)
    for command in ("STORE 1 +FLAGS (\\Seen)", "EXPUNGE", "MOVE 1 Sent", "UID EXPUNGE 1"):
        assert client.say(f"c {command}") == ["c NO Mailbox is read-only"]
    assert client.say("d CLOSE") == ["d OK CLOSE completed"]
    assert "* 2 RECENT" in door.client().login().say("a SELECT INBOX")


def test_a_select_that_fails_leaves_no_mailbox_selected(door: Any) -> None:
    client = door.selected()
    assert client.say("a SELECT nowhere") == ["a NO [NONEXISTENT] No folder nowhere"]
    assert client.say("b FETCH 1 FLAGS") == ["b BAD FETCH not allowed now"]
    assert door.folder().users == 0


# -- FETCH -------------------------------------------------------------------------------------------


def test_sections_are_the_messages_own_octets(door: Any) -> None:
    door.put(MULTI)
    client = door.selected()
    message = MULTI.replace("\n", "\r\n").encode()
    inner = message[message.index(b"Subject: inner") : message.index(b"\r\n--xx--")]
    expected = {
        "": message,
        "HEADER": message[: message.index(b"\r\n\r\n") + 4],
        "TEXT": message[message.index(b"\r\n\r\n") + 4 :],
        "1": b"caf=E9 noir",
        "1.MIME": b"Content-Type: text/plain; charset=iso-8859-1\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n",
        "2": inner,
        "2.HEADER": inner[: inner.index(b"\r\n\r\n") + 4],
        "2.TEXT": inner[inner.index(b"\r\n\r\n") + 4 :],
        "2.1": b"inner plain",
        "2.1.MIME": b"\r\n",
        "2.2": b"PHA+YmFzZSBzaXh0eS1mb3VyPC9wPgo=",
        "2.HEADER.FIELDS (SUBJECT)": b"Subject: inner\r\n\r\n",
        "HEADER.FIELDS (subject from)": b"From: a@b\r\nSubject: parts\r\n\r\n",
        "HEADER.FIELDS.NOT (MIME-Version Content-Type)": b"From: a@b\r\nSubject: parts\r\n\r\n",
    }
    for section, octets in expected.items():
        assert literal(client, f"a FETCH 1 BODY.PEEK[{section}]") == octets, section
    assert literal(client, "a FETCH 1 RFC822.HEADER") == expected["HEADER"]
    for section in ("3", "1.1", "1.HEADER", "2.3", "2.1.1"):
        assert client.say(f"a FETCH 1 BODY.PEEK[{section}]")[0] == f"* 1 FETCH (BODY[{section}] NIL)"


def test_header_sections_keep_order_and_duplicates(door: Any) -> None:
    # the stock server rebuilds the header from a dict
    door.put(PLAIN)
    client = door.selected()
    message = PLAIN.replace("\n", "\r\n").encode()
    assert literal(client, "a FETCH 1 BODY.PEEK[HEADER]") == message[: message.index(b"\r\n\r\n") + 4]
    assert (
        literal(client, "a FETCH 1 BODY.PEEK[HEADER.FIELDS (RECEIVED)]")
        == b"Received: by x; Mon, 1 Jan 2024 00:00:00 +0000\r\n"
        b"Received: by y; Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\n"
    )


def test_the_only_part_of_a_plain_message_is_number_one(door: Any) -> None:
    door.put(PLAIN)
    client = door.selected()
    assert literal(client, "a FETCH 1 BODY.PEEK[1]") == b"line one\r\nline two\r\n"


@pytest.mark.parametrize("size", [1, 5, 100_000])
def test_partials_return_that_range_only(door: Any, size: int) -> None:
    # the stock server returns all
    message = PLAIN.replace("\n", "\r\n").encode() + b"z" * 100_000
    door.put(message)
    client = door.selected()
    for start in (0, 7, len(message) - 3, len(message) + 10):
        assert literal(client, f"a FETCH 1 BODY.PEEK[]<{start}.{size}>") == message[start : start + size]
    body = message[message.index(b"\r\n\r\n") + 4 :]
    assert literal(client, f"a FETCH 1 BODY.PEEK[TEXT]<3.{size}>") == body[3 : 3 + size]
    assert fetched(client.say("a FETCH 1 BODY.PEEK[]<7.1>"))[0].startswith("* 1 FETCH (BODY[]<7> {1}")


def test_a_large_message_is_streamed_whole(door: Any) -> None:
    message = MULTI.replace("\n", "\r\n").encode().replace(b"epilogue", b"e" * 500_000)
    door.put(message)
    client = door.selected()
    assert literal(client, "a FETCH 1 BODY.PEEK[]") == message
    assert literal(client, "a FETCH 1 BODY.PEEK[2.1]") == b"inner plain"
    huge_header = b"X: " + b"h" * 300_000 + b"\r\n\r\nbody"
    door.put(huge_header)
    client.say("b NOOP")
    assert literal(client, "a FETCH 2 BODY.PEEK[HEADER]") == huge_header[:-4]


def test_a_literal_has_no_nul_and_keeps_its_size(door: Any) -> None:
    door.put("Subject: n\0l\n\nzero \0 here\n")
    client = door.selected()
    assert literal(client, "a FETCH 1 BODY.PEEK[]") == b"Subject: n\x80l\r\n\r\nzero \x80 here\r\n"
    assert literal(client, "b FETCH 1 BODY.PEEK[TEXT]<5.1>") == b"\x80"
    assert literal(client, "c FETCH 1 BODY.PEEK[HEADER.FIELDS (Subject)]") == b"Subject: n\x80l\r\n\r\n"


def test_reading_sets_seen_and_says_so_but_peeking_does_not(door: Any) -> None:
    door.put(PLAIN, PLAIN, PLAIN)
    client = door.selected()
    client.say("a FETCH 1 BODY.PEEK[]")
    client.say("a FETCH 1 RFC822.HEADER")
    assert "\\Seen" not in door.folder().flags(1)
    assert client.say("a FETCH 1 BODY[TEXT]")[-2] == " FLAGS (\\Seen \\Recent))"
    assert "\\Seen" in door.folder().flags(1)
    assert "FLAGS" not in "".join(client.say("a FETCH 1 BODY[TEXT]"))
    assert client.say("a FETCH 2 (FLAGS RFC822)")[0].startswith("* 2 FETCH (FLAGS (\\Seen \\Recent) RFC822 {")
    other = door.selected()
    client.say("a FETCH 3 RFC822.TEXT")
    assert other.say("b NOOP")[0] == "* 3 FETCH (FLAGS (\\Seen))"


def test_index_items(door: Any) -> None:
    door.put(PLAIN)
    client = door.selected()
    (line,) = fetched(client.say("a UID FETCH 1 FAST"))
    size = len(PLAIN.replace("\n", "\r\n"))
    assert line == (
        f'* 1 FETCH (UID 1 FLAGS (\\Recent) INTERNALDATE "14-Nov-2026 09:00:00 +0000" RFC822.SIZE {size})'
    )
    (line,) = fetched(client.say("a FETCH 1 (ENVELOPE BODY BODYSTRUCTURE)"))
    assert '"=?utf-8?q?R=C3=A9union?= of the group"' in line
    assert 'BODY ("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 20 2)' in line
    assert 'BODYSTRUCTURE ("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 20 2 NIL NIL NIL NIL)' in line


def test_uids_that_do_not_exist_are_no_error_but_numbers_are(door: Any) -> None:
    door.put(PLAIN)
    client = door.selected()
    assert client.say("a UID FETCH 7,9 FLAGS") == ["a OK FETCH completed"]
    assert client.say("a FETCH 2 FLAGS") == ["a BAD No such message"]
    assert fetched(client.say("a UID FETCH 5:* UID")) == ["* 1 FETCH (UID 1)"]
    client.select("Sent")
    assert client.say("a FETCH 1:* FLAGS") == ["a OK FETCH completed"]


def test_a_message_that_goes_while_it_is_fetched_is_left_out(
    door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.put(PLAIN, PLAIN)
    client = door.selected()
    real = door.folder().message
    monkeypatch.setattr(door.folder(), "message", lambda uid: fail(gone()) if uid == 1 else real(uid))
    said = client.say("a FETCH 1:2 BODY.PEEK[TEXT]")
    assert said[0].startswith("* 2 FETCH") and said[-1].startswith("a NO [EXPUNGEISSUED]")
    assert client.say("b UID FETCH 1 BODY.PEEK[1]") == ["b OK FETCH completed"]
    looked = door.folder().examine
    monkeypatch.setattr(
        door.folder(),
        "examine",
        lambda uids, work: looked(uids, work).addCallback(lambda said: {**said, 1: None}),
    )
    assert client.say("c SEARCH TEXT group") == ["* SEARCH 2", "c OK SEARCH completed"]


def test_a_literal_that_cannot_be_finished_cuts_the_connection(
    door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.put(b"Subject: x\r\n\r\n" + b"y" * 300_000)
    client = door.selected()
    monkeypatch.setattr(MemoryMessage, "read", lambda self, offset=0, length=None: succeed(b"short"))
    said = client.say("a FETCH 1 BODY.PEEK[]")
    assert client.transport.aborted
    assert not any(line.startswith("a ") for line in said)
    client.lose()
    assert door.folder().users == 0


def test_a_message_can_be_read_though_it_cannot_be_marked_seen(
    door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.put(PLAIN)
    client = door.selected()
    full = TemporaryError(Reply(452, "4.3.1", "disk full"))
    monkeypatch.setattr(door.folder(), "change_flags", lambda *_: fail(full))
    assert client.say("a FETCH 1 BODY[TEXT]")[-1] == "a OK FETCH completed"
    assert client.say("b STORE 1 +FLAGS (\\Seen)") == ["b NO [UNAVAILABLE] disk full"]


# -- two sessions ------------------------------------------------------------------------------------


def test_expunges_of_others_are_told_only_where_numbers_may_shift(door: Any) -> None:
    door.put(PLAIN, PLAIN, PLAIN)
    client, other = door.selected(), door.selected()
    other.say("a STORE 1 +FLAGS.SILENT (\\Deleted)")
    assert other.say("b EXPUNGE") == ["* 1 EXPUNGE", "b OK EXPUNGE completed"]
    door.put(PLAIN)
    # RFC 3501 §7.4.1: EXISTS may come, EXPUNGE must not, and numbers stay
    assert client.say("c FETCH 1:3 UID") == [
        "* 2 FETCH (UID 2)",
        "* 3 FETCH (UID 3)",
        "* 4 EXISTS",
        "* 4 RECENT",
        "c NO [EXPUNGEISSUED] Some of the messages are gone",
    ]
    assert client.say("d SEARCH ALL") == ["* SEARCH 2 3 4", "d OK SEARCH completed"]
    assert client.say("e STORE 1 +FLAGS (\\Seen)")[-1].startswith("e NO [EXPUNGEISSUED]")
    assert client.say("f COPY 1:2 Sent")[-1].startswith("f NO [EXPUNGEISSUED]")
    assert client.say("g NOOP") == ["g OK NOOP completed"]  # told after f, where it was allowed
    assert fetched(client.say("h FETCH 1 UID")) == ["* 1 FETCH (UID 2)"]


def test_uid_commands_tell_expunges(door: Any) -> None:
    door.put(PLAIN, PLAIN)
    client, other = door.selected(), door.selected()
    other.say("a STORE 1 +FLAGS.SILENT (\\Deleted)")
    other.say("b EXPUNGE")
    assert client.say("c UID FETCH 1:2 UID") == ["* 2 FETCH (UID 2)", "* 1 EXPUNGE", "c OK FETCH completed"]


def test_flag_changes_of_others_are_told_once(door: Any) -> None:
    door.put(PLAIN)
    client, other = door.selected(), door.selected()
    assert other.say("a UID STORE 1 +FLAGS ($New)") == [
        "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $New)",
        "* 1 FETCH (UID 1 FLAGS ($New))",
        "a OK STORE completed",
    ]
    assert client.say("b NOOP") == [
        "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $New)",
        "* 1 FETCH (FLAGS ($New \\Recent))",
        "b OK NOOP completed",
    ]
    assert client.say("c NOOP") == ["c OK NOOP completed"]
    assert other.say("d STORE 1 FLAGS.SILENT (\\Seen)") == ["d OK STORE completed"]
    assert other.say("e NOOP") == ["e OK NOOP completed"]


def test_a_mailbox_that_vanishes_ends_its_sessions(door: Any) -> None:
    door.home.create("Old")
    client, other = door.selected("Old"), door.client().login()
    assert other.say("a DELETE Old") == ["a OK DELETE completed"]
    assert client.say("b NOOP")[-1] == "* BYE The selected mailbox was deleted"
    assert client.closed


def test_renaming_the_selected_folder_keeps_it_and_deleting_it_only_deselects_it(door: Any) -> None:
    door.home.create("Old")
    client = door.selected("Old")
    assert client.say("a RENAME Old New") == ["a OK RENAME completed"]
    assert client.say("b CHECK") == ["b OK CHECK completed"]
    assert client.say("c DELETE New") == ["c OK DELETE completed"]
    assert client.say("d NOOP") == ["d OK NOOP completed"]


def test_many_expunges_and_flag_changes_are_all_told(door: Any) -> None:
    door.put(*(["\n\nx\n"] * 7000))
    client, other = door.selected(), door.selected()
    other.say("a STORE 1:6000 +FLAGS.SILENT (\\Deleted)")
    assert len(fetched(client.say("b NOOP"))) == 6000
    said = other.say("c EXPUNGE")
    assert len(said) == 6001 and said[0] == "* 6000 EXPUNGE" and said[-2] == "* 1 EXPUNGE"
    assert len(client.say("d NOOP")) == 6001
    assert fetched(client.say("e FETCH 1 UID")) == ["* 1 FETCH (UID 6001)"]


# -- changing ----------------------------------------------------------------------------------------


def test_store_adds_removes_and_sets(door: Any) -> None:
    door.put(PLAIN)
    client = door.selected()
    assert fetched(client.say("a STORE 1 +FLAGS (\\Seen \\Flagged)")) == [
        "* 1 FETCH (FLAGS (\\Flagged \\Seen \\Recent))"
    ]
    assert fetched(client.say("b STORE 1 -FLAGS \\Seen")) == ["* 1 FETCH (FLAGS (\\Flagged \\Recent))"]
    assert fetched(client.say("c STORE 1 FLAGS ()")) == ["* 1 FETCH (FLAGS (\\Recent))"]
    assert fetched(client.say("d STORE 1 +FLAGS.SILENT (\\Draft)")) == []
    assert door.folder().flags(1) == {"\\Draft"}
    assert client.say("e STORE 1 +FLAGS (\\Bogus)") == ["e NO [CANNOT] no such system flag"]


def test_append_streams_and_answers_the_uid(door: Any) -> None:
    client = door.selected()
    message = PLAIN.replace("\n", "\r\n").encode()
    head = b'a APPEND INBOX (\\Seen $x) "17-Jul-1996 02:44:25 -0700" {%d}\r\n' % len(message)
    assert client.say(head) == ["+ Ready for the message"]
    for start in range(0, len(message), 50):
        client.session.dataReceived(message[start : start + 50])
    assert client.say(b"\r\n")[-1] == "a OK [APPENDUID 1001 1] APPEND completed"
    assert literal(client, "b FETCH 1 BODY.PEEK[]") == message
    (line,) = fetched(client.say("c FETCH 1 (FLAGS INTERNALDATE)"))
    assert '"17-Jul-1996 09:44:25 +0000"' in line and "$x \\Seen" in line


def test_append_to_nowhere_is_refused_before_the_message(door: Any) -> None:
    # the stock server says BAD, after the message
    client = door.client().login()
    assert client.say("a APPEND nowhere {310}") == ["a NO [TRYCREATE] No such folder"]
    assert client.say(b"b APPEND nowhere {6+}\r\nx NOOP\r\nc NOOP\r\n") == [
        "b NO [TRYCREATE] No such folder",
        "c OK NOOP completed",
    ]


def test_append_has_its_limits(make_door: Any) -> None:
    door = make_door(message_size=1000)
    client = door.client().login()
    assert client.say("a APPEND INBOX {1001}") == ["a NO [TOOBIG] Message too large"]
    assert client.say("a APPEND INBOX {4294967296}") == ["a NO [TOOBIG] literal too large"]
    assert client.say("a APPEND INBOX {0}") == ["a NO [CANNOT] Message is empty"]
    assert client.say("a APPEND INBOX {-5}")[-1].startswith("a BAD")
    assert client.say(b"a APPEND INBOX {1001+}\r\n" + b"y" * 1001 + b"\r\nb NOOP\r\n") == [
        "a NO [TOOBIG] Message too large",
        "b OK NOOP completed",
    ]
    stranger = door.client()
    assert stranger.say("a APPEND INBOX {10}") == ["a BAD APPEND not allowed now"]
    assert stranger.say(b"b APPEND INBOX {900000+}\r\n")[-1].startswith("* BYE")


def test_append_says_when_the_quota_is_full(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door.store, "refuses", lambda account, octets: True)
    client = door.client().login()
    assert client.say(b"a APPEND INBOX {3+}\r\nabc\r\n") == ["a NO [OVERQUOTA] Mailbox full"]


def test_more_text_after_the_message_is_bad(door: Any) -> None:
    client = door.client().login()
    assert client.say(b"a APPEND INBOX {3+}\r\nabc def\r\nb NOOP\r\n") == [
        "a BAD Unexpected text after the message",
        "b OK NOOP completed",
    ]
    assert door.folder().uids() == ()


def test_copy_and_move_answer_both_uids(door: Any) -> None:
    door.put(PLAIN, PLAIN, PLAIN)
    client = door.selected()
    validity = door.folder("Sent").uid_validity
    assert client.say("a COPY 1:2 Sent") == [f"a OK [COPYUID {validity} 1:2 1:2] COPY completed"]
    assert client.say("b UID MOVE 2:3 Sent") == [
        f"* OK [COPYUID {validity} 2:3 3:4] Moved",
        "* 3 EXPUNGE",
        "* 2 EXPUNGE",
        "b OK MOVE completed",
    ]
    assert client.say("c MOVE 1 nowhere") == ["c NO [TRYCREATE] No such folder"]
    assert client.say("d MOVE 1 INBOX") == ["d NO [CANNOT] The messages are in that folder"]
    assert client.say("e UID COPY 77 Sent") == ["e OK No messages copied"]


def test_expunge_removes_the_deleted_and_uid_expunge_only_those_named(door: Any) -> None:
    door.put(PLAIN, PLAIN, PLAIN, PLAIN)
    client = door.selected()
    client.say("a STORE 1,2,4 +FLAGS.SILENT (\\Deleted)")
    assert client.say("b UID EXPUNGE 3:9") == ["* 4 EXPUNGE", "b OK EXPUNGE completed"]
    assert client.say("c EXPUNGE") == ["* 2 EXPUNGE", "* 1 EXPUNGE", "c OK EXPUNGE completed"]
    assert client.say("d STORE 1 +FLAGS.SILENT (\\Deleted)") == ["d OK STORE completed"]
    assert client.say("e UNSELECT") == ["e OK UNSELECT completed"]
    assert len(door.folder().uids()) == 1
    client.select()
    assert client.say("f CLOSE") == ["f OK CLOSE completed"]
    assert door.folder().uids() == ()


# -- folders -----------------------------------------------------------------------------------------


def test_folders_are_made_listed_renamed_and_deleted(door: Any) -> None:
    client = door.client().login()
    assert client.say("a CREATE Work/2026/") == ["a OK [MAILBOXID (M1008)] CREATE completed"]
    assert client.say("a CREATE Work/2026") == ["a NO [ALREADYEXISTS] Folder Work/2026 exists"]
    assert client.say("a CREATE inbox")[0].startswith("a NO")
    assert client.say('a LIST "" "Work*"')[:-1] == [
        '* LIST (\\HasChildren) "/" Work',
        '* LIST (\\HasNoChildren) "/" Work/2026',
    ]
    assert client.say('a LIST "" "Work/%"')[:-1] == ['* LIST (\\HasNoChildren) "/" Work/2026']
    assert client.say('a LIST "Work/" "2*"')[:-1] == ['* LIST (\\HasNoChildren) "/" Work/2026']
    assert client.say("a RENAME Work/2026 &AOk-t&AOk-") == ["a OK RENAME completed"]
    assert client.say('a LIST "" "&AOk-*"')[:-1] == ['* LIST (\\HasNoChildren) "/" &AOk-t&AOk-']
    assert client.say("a DELETE &AOk-t&AOk-") == ["a OK DELETE completed"]
    assert client.say("a DELETE &AOk-t&AOk-")[0].startswith("a NO [NONEXISTENT]")
    assert client.say("a DELETE INBOX") == ["a NO [CANNOT] INBOX cannot be deleted"]
    assert client.say("a CREATE Mine (USE (\\Sent))") == ["a OK [MAILBOXID (M1009)] CREATE completed"]
    assert client.say("a CREATE Other (USE (\\Nonsense))") == ["a NO [USEATTR] No such special use"]


def test_list_with_nothing_asks_for_the_separator(door: Any) -> None:
    # the stock server answers nothing
    client = door.client().login()
    assert client.say('a LIST "" ""') == ['* LIST (\\Noselect) "/" ""', "a OK LIST completed"]


def test_extended_list(door: Any) -> None:
    client = door.client().login()
    client.say("a CREATE A/B")
    client.say("a SUBSCRIBE A/B")
    door.put(PLAIN, folder="Sent")
    assert client.say('b LIST (SUBSCRIBED) "" "A/*"')[:-1] == [
        '* LIST (\\Subscribed \\HasNoChildren) "/" A/B'
    ]
    assert client.say('c LIST (SUBSCRIBED RECURSIVEMATCH) "" "%"')[:-1][-1:] == [
        '* LIST (\\Subscribed \\HasNoChildren \\Trash) "/" Trash'
    ]
    assert '* LIST (\\HasChildren) "/" A ("CHILDINFO" ("SUBSCRIBED"))' in client.say(
        'c LIST (SUBSCRIBED RECURSIVEMATCH) "" "%"'
    )
    said = client.say('d LIST (SPECIAL-USE) "" ("S*" "Z") RETURN (STATUS (MESSAGES UNSEEN))')
    assert said[:-1] == [
        '* LIST (\\HasNoChildren \\Sent) "/" Sent',
        "* STATUS Sent (MESSAGES 1 UNSEEN 1)",
    ]


def test_lsub_shows_the_parents_of_the_subscribed(door: Any) -> None:
    client = door.client().login()
    client.say("a CREATE A/B")
    client.say("a SUBSCRIBE A/B")
    assert '* LSUB (\\Noselect) "/" A' in client.say('b LSUB "" "%"')
    assert '* LSUB () "/" A/B' in client.say('b LSUB "" "*"')
    client.say("c UNSUBSCRIBE A/B")
    assert client.say('b LSUB "" "A/*"') == ["b OK LSUB completed"]


def test_status(door: Any) -> None:
    door.put(PLAIN, PLAIN)
    client = door.client().login()
    size = 2 * len(PLAIN.replace("\n", "\r\n"))
    assert client.say("a STATUS INBOX (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN SIZE)")[0] == (
        f"* STATUS INBOX (MESSAGES 2 RECENT 2 UIDNEXT 3 UIDVALIDITY 1001 UNSEEN 2 SIZE {size})"
    )
    assert client.say("a STATUS nowhere (MESSAGES)")[0].startswith("a NO [NONEXISTENT]")


# -- SEARCH ------------------------------------------------------------------------------------------


@pytest.fixture
def searcher(door: Any) -> Any:
    door.put(PLAIN, MULTI, "From: x@y\nX-Tag:\n\nnothing here\n")
    door.folder().append(
        MemoryContent(b"Subject: old\r\n\r\n" + b"o" * 100_000), ["\\Seen", "$Work"], 86400 * 10
    )
    return door.selected()


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("ALL", "1 2 3 4"),
        ("2:*", "2 3 4"),
        ("UID 1,3", "1 3"),
        ("NOT 2", "1 3 4"),
        ("SEEN", "4"),
        ("UNSEEN", "1 2 3"),
        ("NEW", "1 2 3"),
        ("OLD", ""),
        ("RECENT", "1 2 3 4"),
        ("KEYWORD $work", "4"),
        ("UNKEYWORD $Work", "1 2 3"),
        ("ANSWERED", ""),
        ("UNANSWERED UNDELETED UNDRAFT UNFLAGGED", "1 2 3 4"),
        ("LARGER 50000", "4"),
        ("SMALLER 60", "3"),
        ("BEFORE 1-Feb-1970", "4"),
        ("ON 11-Jan-1970", "4"),
        ("SINCE 14-Nov-2026", "1 2 3"),
        ("SENTON 17-Jul-1996", "1"),
        ("SENTBEFORE 18-Jul-1996", "1"),
        ("SENTSINCE 18-Jul-1996", ""),
        ("FROM gray@cac", "1"),
        ('FROM "TERRY GRAY"', "1"),
        ("TO imap@", "1"),
        ("CC x", ""),
        ("SUBJECT OLD", "4"),
        ("BODY noir", "2"),
        ("BODY epilogue", ""),
        ('BODY "base sixty-four"', "2"),
        ("TEXT gray", "1"),
        ("BODY gray", ""),
        ("TEXT inner", "2"),
        ("BODY ooooo", "4"),
        ('HEADER X-Tag ""', "3"),
        ('HEADER Received "by y"', "1"),
        ("HEADER Subject group", "1"),
        ("OR FROM gray SUBJECT old", "1 4"),
        ("OR (SEEN BODY ooo) (UNSEEN BODY noir)", "2 4"),
        ("NOT (OR SEEN BODY noir)", "1 3"),
        ("SUBJECT r\u00e9union", "1"),
        ("CHARSET UTF-8 BODY caf\u00c9", "2"),
    ],
)
def test_search_keys(searcher: Any, program: str, found: str) -> None:
    words = program.split(" ")
    data = b"a SEARCH"
    for word in words:
        octets = word.encode("utf-8")
        data += b" " + (octets if octets.isascii() else b"{%d+}\r\n%b" % (len(octets), octets))
    assert searcher.say(data + b"\r\n") == [f"* SEARCH {found}".rstrip(), "a OK SEARCH completed"]


def test_uid_search_and_charsets(searcher: Any) -> None:
    assert searcher.say("a UID SEARCH SUBJECT old") == ["* SEARCH 4", "a OK SEARCH completed"]
    assert searcher.say("a SEARCH CHARSET klingon TEXT x") == [
        "a NO [BADCHARSET (US-ASCII UTF-8)] Unknown character set"
    ]
    assert searcher.say(b"a SEARCH CHARSET iso-8859-1 SUBJECT {7+}\r\nr\xe9union\r\n")[0] == "* SEARCH 1"
    assert searcher.say("a SEARCH 9") == ["a BAD No such message"]


def test_what_is_stored_parses_as_it_was(door: Any) -> None:
    door.put(MULTI)
    client = door.selected()
    parsed = email.message_from_bytes(literal(client, "a FETCH 1 BODY.PEEK[]"))
    assert [part.get_content_type() for part in parsed.walk()][1:3] == ["text/plain", "message/rfc822"]


def test_long_commands_yield_to_other_sessions(door: Any) -> None:
    door.put(*(["Subject: x\n\ny\n"] * 1200))
    client = door.selected()
    client.session.dataReceived(b"a FETCH 1:* (FLAGS ENVELOPE)\r\n")
    assert b"a OK" not in client.transport.value()  # one slice only in this turn
    said = client.read()
    assert len(fetched(said)) == 1200 and said[-1] == "a OK FETCH completed"


def test_a_long_search_tells_how_far_it_is(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    door.put(*([PLAIN] * 45))
    client = door.selected()
    looked = door.folder().examine

    def slowly(uids: Any, work: Any) -> Any:
        door.clock.advance(11)
        return looked(uids, work)

    monkeypatch.setattr(door.folder(), "examine", slowly)
    said = client.say("a SEARCH TEXT group")
    # RFC 9585 §3: the command's tag, how far it is, and of how much
    assert said[0] == '* OK [INPROGRESS ("a" 0 45)] Still at it'
    assert said[-1] == "a OK SEARCH completed" and said[-2].startswith("* SEARCH 1 2 3 ")


def test_fuzzy_forgives_accents_and_nothing_else(door: Any) -> None:
    door.put(PLAIN, MULTI)
    client = door.selected()
    assert client.say("a SEARCH FUZZY SUBJECT reunion")[0] == "* SEARCH 1"  # RFC 6203 §4
    assert client.say("b SEARCH FUZZY BODY cafe")[0] == "* SEARCH 2"
    assert client.say("c SEARCH SUBJECT reunion")[0] == "* SEARCH"
    assert client.say("d SEARCH FUZZY (SUBJECT reunion BODY line) NOT FUZZY BODY cafe")[0] == "* SEARCH 1"
    assert client.say("e SEARCH FUZZY")[0].startswith("e BAD")


def test_relevancy_tells_what_was_forgiven(door: Any) -> None:
    door.put(PLAIN, MULTI.replace("parts", "reunion"), "Subject: other\n\nx\n")
    client = door.selected()
    # RFC 6203 §4: in the order of the messages; 1 to 100
    assert client.say("a SEARCH RETURN (ALL RELEVANCY) FUZZY SUBJECT reunion")[0] == (
        '* ESEARCH (TAG "a") ALL 1:2 RELEVANCY (50 100)'
    )
    assert client.say("b SEARCH RETURN (RELEVANCY) FUZZY BODY cafe")[0] == (
        '* ESEARCH (TAG "b") ALL 2 RELEVANCY (100)'
    )
    # RFC 6203 §5: the most relevant first
    assert client.say("c SORT (RELEVANCY) UTF-8 FUZZY SUBJECT reunion")[0] == "* SORT 2 1"
    assert client.say("d SEARCH RETURN (RELEVANCY) SUBJECT reunion")[0].startswith("d BAD")
    assert client.say("e SORT (RELEVANCY) UTF-8 ALL")[0].startswith("e BAD")
    assert client.say("f SEARCH RETURN (ALL RELEVANCY) FUZZY SUBJECT nowhere")[0] == '* ESEARCH (TAG "f")'


def test_searching_and_sorting_go_by_the_unicode_comparator(door: Any) -> None:
    for subject in ("Zoé", "étude", "ETUDE", "\u00c9tape", "_x"):
        door.put(f"Subject: {subject}\n\nx\n")
    client = door.selected()
    # RFC 5255 §4.2, RFC 5051: decomposed titlecase
    assert client.say("a UID SORT (SUBJECT) UTF-8 ALL")[0] == "* SORT 3 4 2 1 5"
    needle = "E\u0301TUDE".encode()
    assert client.say(b"b SEARCH SUBJECT {%d+}\r\n%b\r\n" % (len(needle), needle))[0] == "* SEARCH 2"


def test_refs_threads_by_references_alone_and_the_last_touched_thread_is_last(door: Any) -> None:
    def put(ident: str, subject: str, reference: str = "") -> None:
        door.clock.advance(60)
        more = f"References: <{reference}@x>\n" if reference else ""
        door.put(f"Subject: {subject}\nMessage-ID: <{ident}@x>\n{more}\nx\n")

    put("1", "one")
    put("2", "two")
    put("3", "one")
    put("4", "Re: one", "1")
    client = door.selected()
    assert client.say("a THREAD REFS UTF-8 ALL")[0] == "* THREAD (2)(3)(1 4)"
    assert client.say("b UID THREAD REFS UTF-8 SUBJECT two")[0] == "* THREAD (2)"
    assert client.say("c THREAD NEITHER UTF-8 ALL")[0].startswith("c BAD")
