"""NOTIFY (RFC 5465): what a client hears without asking."""

from __future__ import annotations

from typing import Any

from lorrainemail.imap import asides, notify

MESSAGE = "From: a@b.test\nSubject: hello\n\nx\n"


def wait(door: Any) -> None:
    door.clock.advance(notify.GATHER)


def test_other_mailboxes_are_told_of_by_status(door: Any) -> None:
    client = door.selected()
    # RFC 5465 §3.1
    said = client.say("a NOTIFY SET (personal (MessageNew MessageExpunge FlagChange))")
    assert said == ["a OK NOTIFY completed"]
    door.put(MESSAGE, MESSAGE, folder="Junk")
    assert client.read() == []  # gathered
    wait(door)
    (line,) = client.read()
    assert line.startswith("* STATUS Junk (MESSAGES 2 UIDNEXT 3 UIDVALIDITY ") and line.endswith("UNSEEN 2)")
    door.folder("Junk").change_flags([1], "add", ["\\Seen"])
    wait(door)
    assert client.read()[0].endswith("UNSEEN 1)")
    door.folder("Junk").expunge([1])
    wait(door)
    assert client.read()[0].startswith("* STATUS Junk (MESSAGES 1 UIDNEXT 3 ")


def test_with_condstore_the_status_carries_the_modseq(door: Any) -> None:
    client = door.selected()
    client.say("e ENABLE CONDSTORE")
    client.say("a NOTIFY SET (subtree Junk (MessageNew MessageExpunge))")
    door.put(MESSAGE, folder="Junk")
    door.put(MESSAGE, folder="Trash")
    wait(door)
    (line,) = client.read()
    assert " HIGHESTMODSEQ " in line and "STATUS Junk " in line


def test_status_at_once_where_asked_for(door: Any) -> None:
    door.put(MESSAGE, folder="Junk")
    client = door.selected()
    said = client.say("a NOTIFY SET STATUS (mailboxes (Junk INBOX Nowhere) (MessageNew MessageExpunge))")
    assert [line.split(" ")[2] for line in said[:-1]] == ["Junk"]  # INBOX is selected
    assert said[-1] == "a OK NOTIFY completed"


def test_the_selected_mailbox_tells_new_messages_at_once_with_what_is_wanted_of_them(door: Any) -> None:
    client = door.selected()
    client.say("a NOTIFY SET (selected (MessageNew (uid body.peek[header.fields (subject)]) MessageExpunge))")
    door.put(MESSAGE)
    said = client.read()
    assert said[:2] == ["* 1 EXISTS", "* 1 RECENT"]
    assert said[2:] == [
        "* 1 FETCH (UID 1 BODY[HEADER.FIELDS (subject)] {18}",
        "Subject: hello",
        "",
        ")",
    ]
    door.folder().expunge([1])
    assert client.read() == ["* 1 EXPUNGE"]
    # a client that idles hears it, too
    assert client.say("i IDLE")[0].startswith("+")
    door.put(MESSAGE)
    assert "* 1 FETCH (UID 2 BODY[HEADER.FIELDS (subject)] {18}" in client.read()
    assert client.say("DONE")[-1].startswith("i OK")
    # and in the answer to a command
    door.folder().change_flags([2], "add", ["\\Seen"])
    assert client.read() == []  # no FlagChange was asked for
    assert client.say("n NOOP") == ["n OK NOOP completed"]


def test_selected_delayed_keeps_expunges_for_a_command(door: Any) -> None:
    door.put(MESSAGE, MESSAGE)
    client = door.selected()
    client.say("a NOTIFY SET (selected-delayed (MessageNew MessageExpunge FlagChange))")
    door.folder().expunge([1])
    assert client.read() == []
    door.folder().change_flags([2], "add", ["\\Seen"])
    assert client.read() == ["* 2 FETCH (FLAGS (\\Seen \\Recent))"]
    assert client.say("n NOOP")[0] == "* 1 EXPUNGE"


def test_none_tells_nothing_and_set_again_tells_everything(door: Any) -> None:
    client = door.selected()
    assert client.say("a NOTIFY NONE") == ["a OK NOTIFY completed"]
    door.put(MESSAGE)
    assert client.say("n NOOP") == ["n OK NOOP completed"]
    client.say("b NOTIFY SET (selected-delayed (MessageNew MessageExpunge FlagChange))")
    assert client.say("n NOOP")[-1] == "n OK NOOP completed"
    door.put(MESSAGE)
    assert "* 2 EXISTS" in client.read()


def test_folders_that_come_go_or_change_their_names_are_told(door: Any) -> None:
    client = door.selected()
    client.say("a NOTIFY SET (personal (MailboxName SubscriptionChange))")
    other = door.client().login()
    other.say("c CREATE Work")
    assert client.read() == ['* LIST () "/" Work']
    other.say("c RENAME Work Play")
    assert client.read() == ['* LIST () "/" Play ("OLDNAME" (Work))']
    other.say("c SUBSCRIBE Play")
    assert client.read() == ['* LIST (\\Subscribed) "/" Play']
    other.say("c DELETE Play")
    assert client.read() == ['* LIST (\\NonExistent) "/" Play']


def test_the_subscribed_filter_follows_subscriptions(door: Any) -> None:
    client = door.selected()
    door.home.create("Work")
    client.say("a NOTIFY SET (subscribed (MessageNew MessageExpunge))")
    door.put(MESSAGE, folder="Work")
    wait(door)
    assert client.read() == []
    door.home.subscribe("Work", True)
    door.put(MESSAGE, folder="Work")
    wait(door)
    assert client.read()[0].startswith("* STATUS Work (MESSAGES 2 ")


def test_nothing_is_told_in_the_middle_of_an_answer(door: Any) -> None:
    door.put(*[MESSAGE] * 60)
    client = door.selected()
    client.say("a NOTIFY SET (personal (MailboxName))")
    client.session.dataReceived(b"f FETCH 1:* BODY.PEEK[]\r\n")
    door.home.create("Work")
    said = client.read()
    assert said[-1] == '* LIST () "/" Work' and said[-2] == "f OK FETCH completed"


def test_too_much_at_once_ends_it_aloud(door: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(asides, "MAX_WAITING", 3)
    client = door.selected()
    client.say("a NOTIFY SET (personal (MailboxName))")
    client.session.transport.pauseProducing = lambda: None
    client.session._busy = True  # an answer is under way
    for number in range(5):
        door.home.create(f"F{number}")
    client.session._busy = False
    assert client.say("n NOOP")[-1].startswith("* OK [NOTIFICATIONOVERFLOW] ")
    door.home.create("Last")
    assert client.read() == []


def test_what_is_wrong_is_refused(door: Any) -> None:
    client = door.selected()
    assert client.say("a NOTIFY SET (personal (MessageNew MessageExpunge AnnotationChange))")[0].startswith(
        "a NO [BADEVENT (FlagChange MailboxMetadataChange MailboxName MessageExpunge MessageNew "
    )
    for words in (
        "SET",
        "SOMETIMES",
        "SET (personal (MessageNew))",
        "SET (personal (FlagChange))",
        "SET (selected (MailboxName))",
        "SET (selected NONE) (selected-delayed NONE)",
        "SET (personal (MessageNew (UID) MessageExpunge))",
        "SET (nowhere NONE)",
        "SET (mailboxes () NONE)",
    ):
        assert client.say(f"b NOTIFY {words}")[-1].startswith("b BAD"), words
    assert client.say("c NOTIFY SET (personal NONE)") == ["c OK NOTIFY completed"]
    assert door.client().say("d NOTIFY NONE")[-1].startswith("d BAD")


def test_who_leaves_follows_nothing_any_more(door: Any) -> None:
    client = door.selected()
    client.say("a NOTIFY SET (personal (MessageNew MessageExpunge))")
    door.put(MESSAGE, folder="Junk")
    client.lose()
    assert door.home._listeners == []
    wait(door)
