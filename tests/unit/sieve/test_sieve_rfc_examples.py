"""The examples that the standards give, each with messages for which it does one thing and another."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from lorrainemail.sieve.language import compile_script

Does = Callable[..., list[str]]

A = """Date: Tue, 1 Apr 1997 09:06:31 -0800 (PST)
From: coyote@desert.example.org
To: roadrunner@acme.example.com
Subject: I have a present for you

Look, I'm sorry about the whole anvil thing.
"""
B = """From: youcouldberich!@reply-by-postal-mail.invalid
To: rube@landru.example.com
Date: Mon, 31 Mar 1997 18:26:10 -0800
Subject: $$$ YOU, TOO, CAN BE A MILLIONAIRE! $$$

YOU MAY HAVE ALREADY WON TEN MILLION DOLLARS!
"""

RFC_5228_9 = """
if header :is "Sender" "owner-ietf-mta-filters@imc.org" { fileinto "filter"; }
elsif address :DOMAIN :is ["From", "To"] "example.com" { keep; }
elsif anyof (NOT address :all :contains ["To", "Cc", "Bcc"] "me@example.com",
             header :matches "subject" ["*make*money*fast*", "*university*dipl*mas*"])
{ fileinto "spam"; }
else { fileinto "personal"; }
"""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Sender: owner-ietf-mta-filters@imc.org\n\n", "filter"),
        ("From: a@example.com\n\n", "keep"),
        ("From: a@b.example\nTo: you@other.example\n\n", "spam"),
        ("From: a@b.example\nCc: me@example.com\nSubject: MAKE some money FAST!\n\n", "spam"),
        ("From: a@b.example\nCc: me@example.com\nSubject: lunch\n\n", "personal"),
    ],
)
def test_rfc_5228_extended_example(does: Does, message: str, expected: str) -> None:
    # RFC 5228 §9
    assert does(RFC_5228_9, message) == [expected]


@pytest.mark.parametrize(
    ("test", "message", "expected"),
    [
        ('header :contains "subject" "$$$"', B, True),  # RFC 5228 §3.1
        ('header :contains ["From"] "coyote"', A, True),
        ('header :is "From" "coyote"', A, False),
        ('address :is :all "from" "tim@example.com"', 'From: "Tim" <tim@example.com>\n\n', True),
        ('address :domain "from" "example.com"', "From: stuff@Example.COM\n\n", True),
        ('header :contains "X-Caffeine" ""', "X-Caffeine: C8H10N4O2\n\n", True),  # RFC 5228 §5.7
        ('header :is "X-Caffeine" ""', "X-Caffeine: C8H10N4O2\n\n", False),
        ('header :is "X-Caffeine" ""', "X-Caffeine:\n\n", True),
        ('header :is "X-Caffeine" ""', "Subject: x\n\n", False),
        ('not exists ["From", "Date"]', A, False),  # RFC 5228 §5.5
        ('not exists ["From", "X-Date"]', A, True),
        ("size :over 100", A, True),
        ('header :value "ge" :comparator "i;ascii-numeric" "x-priority" "3"', "X-Priority: 3\n\n", True),
        ('header :count "ge" :comparator "i;ascii-numeric" "received" "3"', "Received: a\n\n", False),
        ('address :count "gt" :comparator "i;ascii-numeric" ["to", "cc"] "1"', "To: a@b.c, d@e.f\n\n", True),
        # RFC 5231 §7
        ('address :value "gt" :all "from" "M"', "From: z@example.com\n\n", True),
        # RFC 5233 §5
        ('address :detail "to" "mta-filters"', "To: ken+mta-filters@example.org\n\n", True),
        ('address :user "to" "ken"', "To: ken+mta-filters@example.org\n\n", True),
        ('address :user "to" "ken"', "To: ken@example.org\n\n", True),
        ('address :detail "to" ""', "To: ken@example.org\n\n", False),
        ('address :detail "to" ""', "To: ken+@example.org\n\n", True),
        ('envelope :detail "to" "x"', A, False),
        # RFC 5173 §5
        ('body :raw :contains "MAKE MONEY FAST"', "S: x\n\nplease make money fast\n", True),
        ('body :content "text" :contains ["missile", "coordinates"]', "S: x\n\nthe coordinates\n", True),
        ('body :content "audio/mp3" :contains ""', "Content-Type: audio/mp3\n\nx\n", True),
        ('not body :raw :contains "no"', "S: x\n\n", True),
        # RFC 5260 §4, §5
        ('date :is :zone "-0500" "date" "hour" "12"', A, True),
        ('date :value "le" "date" "year" "1997"', A, True),
        ('allof (currentdate :value "ge" :zone "+0000" "date" "2026-11-22", '
         'currentdate :value "lt" :zone "+0000" "date" "2026-11-23")', A, True),
        ('currentdate :is :zone "+0000" "weekday" "0"', A, True),
        ('currentdate :is :zone "+0000" "std11" "Sun, 22 Nov 2026 08:00:00 +0000"', A, True),
        ('date "subject" "year" "1997"', A, False),
        # RFC 5183
        ('environment :contains "item" ""', A, False),
        ('environment :is "phase" "during"', A, True),
        # RFC 5235
        ('spamtest :value "eq" "0"', A, True),
        ('virustest :value "eq" "0"', A, True),
        # RFC 5435 §4
        ('valid_notify_method ["mailto:", "http://x"]', A, False),
        ('notify_method_capability "mailto:a@b.example" "Online" "maybe"', A, True),
        # RFC 5229 §3: "${...}" that is none stays
        ('string "&%${}!" "&%${}!"', A, True),
        ('string "${doh!}" "${doh!}"', A, True),
        ('string "${Company}" ""', A, True),
        # RFC 5228 §2.4.2.4
        ('string "$${hex:40}" "$@"', A, True),
        ('string "${hex: 40 }" "@"', A, True),
        ('string "${HEX: 40}" "@"', A, True),
        ('string "${hex:40" "${hex:40"', A, True),
        ('string "${hex:400}" "${hex:400}"', A, True),
        ('string "${unicode:40}" "@"', A, True),
        ('string "${ unicode:40}" "${ unicode:40}"', A, True),
        ('string "${UNICODE:40}" "@"', A, True),
        ('string "${UnICoDE:0000040}" "@"', A, True),
        ('string "${Unicode:40 20 0041}" "@ a"', A, True),
    ],
)  # fmt: skip
def test_tests_of_the_standards(does: Does, test: str, message: str, expected: bool) -> None:
    environment = {"phase": "during"}
    answer = does(
        f'if {test} {{ fileinto "yes"; }} else {{ fileinto "no"; }}', message, environment=environment
    )
    assert answer == ["yes" if expected else "no"]


VARIABLES = """
set "honorific" "Mr";
set "first_name" "Wile";
set "last_name" text:
Coyote
.
;
"""


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        # RFC 5229 §3
        ('set "company" "ACME"; fileinto "The best ${company} company.";', "The best ACME company."),
        ('set "company" "ACME"; fileinto "${President, ${company} Inc.}";', "${President, ACME Inc.}"),
        # RFC 5229 §4.1.6
        ('set "a" "juMBlEd lETteRS"; set :length "b" "${a}"; fileinto "${b}";', "15"),
        ('set "a" "juMBlEd lETteRS"; set :lower "b" "${a}"; fileinto "${b}";', "jumbled letters"),
        ('set "a" "juMBlEd lETteRS"; set :upperfirst "b" "${a}"; fileinto "${b}";', "JuMBlEd lETteRS"),
        ('set "a" "juMBlEd lETteRS"; set :upperfirst :lower "b" "${a}"; fileinto "${b}";', "Jumbled letters"),
        ('set :quotewildcard "b" "Rock*"; fileinto "${b}";', "Rock\\*"),
        # RFC 5229 §3.2
        ('if header :matches "List-ID" "*<*@*" { fileinto "INBOX.lists.${2}"; }', "INBOX.lists.tax"),
        ('if header :matches ["To", "Cc"] ["coyote@**.com", "wile@**.com"] '
         '{ fileinto "INBOX.business.${2}"; }',
         "INBOX.business.acme.example"),
        ('if header :matches "subject" "*money*" { set "what" "${1}|${2}"; } fileinto "${what}";',
         " free | now"),
    ],
)  # fmt: skip
def test_variables_of_rfc_5229(does: Does, script: str, expected: str) -> None:
    message = (
        "List-ID: Tax advice <tax@lists.example>\nTo: a@b.example, coyote@ACME.Example.COM\n"
        "Cc: coyote@acme.example.com\nSubject: free money now\n\n"
    )
    (answer,) = does(script, message)
    assert answer.strip() == expected.strip()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        # RFC 5232 §3, §4
        ('setflag "\\\\Deleted"; keep;', ["keep \\Deleted"]),
        ('addflag "flag1"; addflag ["flag2", "flag3"]; keep;', ["keep flag1 flag2 flag3"]),
        ('addflag "" ; addflag "flag2 flag3"; keep;', ["keep flag2 flag3"]),
        ('addflag "x y"; removeflag ["X"]; keep;', ["keep y"]),
        ('fileinto :flags "\\\\Deleted" "Trash";', ["Trash \\Deleted"]),
        ('addflag "MyFlags" "a b"; if hasflag "MyFlags" "B" { keep :flags "${MyFlags}"; }', ["keep a b"]),
        ('setflag "A B"; if hasflag :contains ["x", "a"] { fileinto "y"; }', ["y A B"]),
        (
            'setflag "A B"; if hasflag :count "ge" :comparator "i;ascii-numeric" "2" { fileinto "y"; }',
            ["y A B"],
        ),
        ('setflag "\\\\nonsense \\\\recent fine"; ', ["keep fine"]),
    ],
)
def test_flags_of_rfc_5232(does: Does, script: str, expected: list[str]) -> None:
    assert does(script, A) == expected


def test_rejections_of_rfc_5429_go_with_nothing_else(does: Does) -> None:
    assert does('reject "I am not taking mail from you"; ', A) == ["reject I am not taking mail from you"]
    assert does('if size :over 10 { ereject "too large"; }', A) == ["ereject too large"]
    for script in (
        'keep; reject "x";',
        'reject "x"; keep;',
        'reject "x"; ereject "y";',
        'vacation "a"; reject "x";',
    ):
        (answer,) = does(script, A.replace("roadrunner@acme.example.com", "bob@bricoleur.com"))
        assert answer.startswith("error line 3: "), script


LISTS = (
    "From: a@b.example\nTo: bob@bricoleur.com\nSubject: hi\nMessage-ID: <one@b.example>\n"
    "References: <zero@b>\n"
)


@pytest.mark.parametrize(
    ("more", "sender", "answers"),
    [
        ("", "carole@elorac.fr", True),
        ("", "", False),
        ("Auto-Submitted: auto-replied\n", "carole@elorac.fr", False),
        ("Auto-Submitted: no\n", "carole@elorac.fr", True),
        ("Precedence: bulk\n", "carole@elorac.fr", False),
        ("List-Id: <x.y>\n", "carole@elorac.fr", False),
        ("X-Auto-Response-Suppress: OOF\n", "carole@elorac.fr", False),
        ("", "MAILER-DAEMON@elorac.fr", False),
        ("", "owner-list@elorac.fr", False),
        ("", "list-request@elorac.fr", False),
        ("", "bob@bricoleur.com", False),
    ],
)
def test_vacation_answers_people_only(does: Does, more: str, sender: str, answers: bool) -> None:
    # RFC 5230 §4.5, §4.6; RFC 3834 §2
    assert does('vacation "away";', LISTS + more + "\n", sender=sender) == ["vacation", "keep"][not answers :]


def test_vacation_answers_only_what_is_addressed_to_the_account(does: Does) -> None:
    message = "From: a@b.example\nTo: robert@bricoleur.com\n\n"
    assert does('vacation "away";', message) == ["keep"]
    assert does('vacation :addresses ["robert@bricoleur.com"] "away";', message) == ["vacation", "keep"]
    assert does('vacation "away";', message, addresses=frozenset({"robert@bricoleur.com"})) == [
        "vacation",
        "keep",
    ]


def test_a_vacation_reply_is_what_rfc_5230_says(runs: Any) -> None:
    script = 'vacation :days 23 :subject "gön" :from "Bob <bob@bricoleur.com>" "Gruß\n.\nx";'
    result = runs(script, LISTS + "\n")
    sent = result.effects[0]
    head, body = sent.message.split(b"\r\n\r\n", 1)
    lines = head.split(b"\r\n")
    assert b"From: Bob <bob@bricoleur.com>" in lines and b"To: carole@elorac.fr" in lines
    assert b"Subject: =?utf-8?q?g=C3=B6n?=" in lines
    assert b"In-Reply-To: <one@b.example>" in lines and b"References: <zero@b> <one@b.example>" in lines
    assert b"Auto-Submitted: auto-replied (vacation)" in lines
    assert body == "Gruß\r\n.\r\nx\r\n".encode()
    assert sent.sender is None and sent.seconds == 23 * 86400
    same = runs(
        'vacation :days 3 :subject "gön" :from "Bob <bob@bricoleur.com>" "Gruß\n.\nx";', LISTS + "\n"
    ).effects[0]
    other = runs('vacation :days 23 "other";', LISTS + "\n").effects[0]
    assert same.once == sent.once != other.once
    mine = runs('vacation :handle "h" "one";', LISTS + "\n").effects[0].once
    assert mine == runs('vacation :handle "h" "two";', LISTS + "\n").effects[0].once


def test_a_name_beyond_ascii_leaves_the_address_of_a_reply_readable(runs: Any) -> None:
    sent = runs('vacation :from "Böb <bob@bricoleur.com>" "away";', LISTS + "\n").effects[0]
    assert sent.message.startswith(b"From: =?utf-8?q?B=C3=B6b?= <bob@bricoleur.com>\r\n")


def test_a_reply_cannot_be_given_fields_by_the_message(runs: Any) -> None:
    message = LISTS.replace("hi", "=?utf-8?q?x=0D=0ABcc:_evil@x.example?=")
    sent = runs('vacation "away";', message + "\n").effects[0]
    assert b"\nBcc:" not in sent.message and b"\rBcc" not in sent.message


def test_notifications_of_rfc_5436(runs: Any) -> None:
    script = 'notify :importance "1" :message "Ping" "mailto:x@y.example?body=Hello%20you&cc=z@y.example";'
    sent = runs(script, LISTS + "\n").effects[0]
    assert [str(to) for to in sent.recipients] == ["x@y.example", "z@y.example"]
    assert b"Subject: Ping\r\n" in sent.message and sent.message.endswith(b"\r\n\r\nHello you\r\n")
    assert b'Auto-Submitted: auto-notified; owner-email="bob@bricoleur.com"\r\n' in sent.message
    assert not any(
        e.__class__.__name__ == "Sent" for e in runs(script, LISTS + "Auto-Submitted: yes\n\n").effects
    )


def test_editheader_of_rfc_5293(runs: Any) -> None:
    script = """
    addheader "X-Hello" "World"; addheader :last "X-Last" "one"; deleteheader :index 2 "X-Old";
    deleteheader :contains "Delivered-To" "bob@example.com"; deleteheader "Received"; deleteheader "Subject";
    if header "X-Hello" "World" { keep; }
    """
    message = (
        "Received: a\nX-Old: 1\nX-Old: 2\nDelivered-To: bob@example.com\nDelivered-To: eve@example.com\n"
        "Subject: x\n\nbody\n"
    )
    (keep,) = runs(script, message).effects
    assert keep.version.header == (
        b"X-Hello: World\r\nReceived: a\r\nX-Old: 1\r\nDelivered-To: eve@example.com\r\nX-Last: one\r\n"
    )
    evil = runs('addheader "X-A" "b\r\nX-Evil: c\r\n\r\nd"; keep;', message).effects[0].version.header
    assert evil.startswith(b"X-A: b X-Evil: c  d\r\nReceived")


def test_duplicate_of_rfc_7352(runs: Any, does: Does) -> None:
    script = 'if duplicate { discard; } else { fileinto "new"; }'
    result = runs(script, LISTS + "\n")
    remember = result.effects[0]
    assert remember.seconds == 7 * 86400
    seen = {remember.key: 2e9}
    assert does(script, LISTS + "\n", remembered=seen) == []
    assert does(script, LISTS + "\n", remembered={remember.key: 1.0}) == ["new"], "forgotten"
    other = 'if duplicate :header "subject" :handle "h" { discard; } else { fileinto "new"; }'
    assert does(other, LISTS + "\n", remembered=seen) == ["new"]
    assert does('if duplicate :uniqueid "x" {} if duplicate :uniqueid "x" { discard; }', A) == []


def test_folders_of_rfc_5490_and_rfc_8579(does: Does) -> None:
    folders = {"INBOX": (), "Papierkorb": ("\\trash",)}
    script = (
        'if mailboxexists ["inbox", "Papierkorb"] { fileinto :specialuse "\\\\Trash" "Trash"; } '
        'if not specialuse_exists "\\\\Junk" { fileinto :specialuse "\\\\Junk" :create "Spam"; } '
        'if specialuse_exists "Papierkorb" "\\\\Trash" { addflag "x"; keep; }'
    )
    assert does(script, A, folders=folders) == ["Papierkorb", "Spam", "keep x"]


def test_annotations_of_rfc_5490(does: Does) -> None:
    metadata = {"INBOX": {"/private/vendor/x/auto-replies": "on"}, "": {"/shared/comment": "In Toulouse"}}
    script = (
        'if metadata :is "inbox" "/private/vendor/X/auto-replies" "ON" { addflag "on"; } '
        'if not metadata "INBOX" "/private/other" "" { addflag "missing"; } '
        'if metadata :contains "Nowhere" "/private/vendor/x/auto-replies" "" { addflag "wrong"; } '
        'if metadataexists "INBOX" ["/private/vendor/x/auto-replies"] { addflag "there"; } '
        'if metadataexists "INBOX" ["/private/vendor/x/auto-replies", "/private/y"] { addflag "wrong"; } '
        'if servermetadata :matches "/shared/comment" "*toulouse" { addflag "server"; } '
        'if servermetadataexists "/shared/comment" { addflag "both"; } '
    )
    assert does(script, A, metadata=metadata) == ["keep on missing there server both"]


def test_annotations_are_asked_for_before_the_run() -> None:
    script = (
        b'require ["mboxmetadata", "servermetadata", "variables"]; '
        b'if metadata "Lists" "/private/x" "y" { stop; } if servermetadataexists "/shared/x" { stop; }'
    )
    assert compile_script(script).needs == {"metadata:Lists", "metadata:"}
    dynamic = b'require ["mboxmetadata", "variables"]; if metadataexists "${1}" "/private/x" { stop; }'
    assert compile_script(dynamic).needs == {"metadata:*"}


def test_includes_of_rfc_6609(does: Does) -> None:
    scripts = {
        ("personal", "spam"): b'require ["include", "variables", "fileinto"]; global "where"; '
        b'set "where" "Junk"; set "own" "x"; if header :contains "subject" "present" { return; } '
        b'fileinto "no";',
        ("global", "all"): b"stop;",
        ("personal", "loop"): b'require "include"; include "loop";',
    }

    def library(where: str, name: str) -> bytes | None:
        return scripts.get((where, name))

    script = (
        'include "spam"; include :once "spam"; include :optional "nothing"; global "where"; '
        'fileinto "${where}${own}|${global.where}"; include :global "all"; fileinto "never";'
    )
    assert does(script, A, library=library) == ["Junk|Junk"]
    for wrong, words in (('include "loop";', "includes itself"), ('include "none";', "no personal script")):
        with pytest.raises(Exception, match=words):
            does(wrong, A, library=library)


def test_ihave_of_rfc_5463(does: Does) -> None:
    script = (
        'if ihave "vnd.none" { vnd_none "x"; } elsif ihave ["fileinto", "copy"] { fileinto "yes"; } '
        'else { error "no good"; }'
    )
    assert does(script, A) == ["yes"]
    (answer,) = does('error "no good";', A)
    assert answer == "error line 3: no good"
    (answer,) = does("vnd_none;", A)
    assert "vnd_none" in answer


MIME = """From: a@b.example
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=x

--x
Content-Type: text/plain; charset=utf-8

Hello world
--x
Content-Type: application/pdf; name="Bill.EXE"
Content-Disposition: attachment; filename="Bill.EXE"

data
--x--
"""


def test_parts_of_rfc_5703(does: Does) -> None:
    script = """
    foreverypart :name "outer" {
      if header :mime :param "filename" :matches ["Content-Type", "Content-Disposition"] ["*.com", "*.exe"] {
        fileinto "exe"; break :name "outer";
      }
      if header :mime :contenttype "content-type" "text/plain" {
        extracttext :first 5 :upper "t"; fileinto "${t}";
      }
    }
    """
    assert does(script, MIME) == ["HELLO", "exe"]
    assert does('if header :mime :anychild :type "content-type" "application" { discard; }', MIME) == []


def test_replace_of_rfc_5703_takes_out_parts(runs: Any) -> None:
    script = """
    foreverypart {
      if header :mime :param "filename" :matches "Content-Disposition" "*.exe" {
        addheader "X-Cleaned" "yes";
        replace :mime text:
Content-Type: text/plain
X-Dropped: y

attachment removed
.
;
      }
    }
    if not body :content "text" :contains "removed" { discard; }
    """
    (keep,) = runs(script, MIME).effects
    data = keep.version.header + b"\r\n" + keep.version.body
    assert (
        data
        == (
            "X-Cleaned: yes\nFrom: a@b.example\nMIME-Version: 1.0\n"
            "Content-Type: multipart/mixed; boundary=x\n\n--x\n"
            "Content-Type: text/plain; charset=utf-8\n\nHello world\n--x\nContent-Type: text/plain\n\n"
            "attachment removed\n--x--\n"
        )
        .replace("\n", "\r\n")
        .encode()
    )


def test_what_is_kept_within_a_loop_has_what_was_replaced_so_far(does: Does, runs: Any) -> None:
    loop = 'foreverypart { if header :mime :type "content-type" "%s" { replace "x"; replace "y"; keep; } }'
    (keep,) = runs(loop % "application", MIME).effects
    assert keep.version.body.endswith(b"8bit\r\n\r\nx\r\n--x--\r\n")
    (keep,) = runs(loop % "multipart", MIME).effects
    assert keep.version.body == b"x\r\n"


def test_replace_of_rfc_5703_takes_the_place_of_a_whole_message(runs: Any) -> None:
    message = "Subject: old\nFrom: x@y.example\nContent-Type: text/html\n\n<p>\n"
    (keep,) = runs('replace :subject "new" :from "bob@bricoleur.com" "text";', message).effects
    assert keep.version.header == (
        b"Original-Subject: old\r\nOriginal-From: x@y.example\r\nSubject: new\r\nFrom: bob@bricoleur.com\r\n"
        b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    )
    assert keep.version.body == b"text\r\n"


def test_enclose_of_rfc_5703_makes_an_attachment_of_the_message(runs: Any, does: Does) -> None:
    message = "Subject: virus\nFrom: x@y.example\nTo: bob@bricoleur.com\n\nbody\n"
    (keep,) = runs('enclose :subject "Warning" :headers ["To"] "careful";', message).effects
    header, body = keep.version.header, keep.version.body
    assert header.startswith(b"To: bob@bricoleur.com\r\nFrom: bob@bricoleur.com\r\nDate: Sun, 22 Nov 2026")
    assert b"Subject: Warning\r\n" in header and b"multipart/mixed" in header
    whole = message.replace("\n", "\r\n").encode()
    assert b"careful\r\n--" in body and b"Content-Type: message/rfc822\r\n\r\n" + whole + b"--" in body
    assert does(
        'enclose "a"; if body :content "message/rfc822" :contains "virus" { fileinto "y"; }', message
    ) == ["y"]
    assert does('enclose "a"; enclose "b"; enclose "c"; enclose "d";', message)[0].startswith("error")


def test_copies_of_what_is_sent_are_filed_by_rfc_8580(runs: Any) -> None:
    sent = runs('vacation :fcc "Sent" :flags "\\\\Seen" :create "away";', LISTS + "\n").effects[0]
    assert (sent.copy.folder, sent.copy.flags, sent.copy.create) == ("Sent", ("\\Seen",), True)


@pytest.mark.parametrize(
    "script",
    [
        'redirect "a@b.c"; redirect "d@b.c"; redirect "e@b.c"; redirect "f@b.c"; redirect "g@b.c";',
        "".join(f'fileinto "{number}";' for number in range(40)),
        'set "a" "' + "x" * 30_000 + '"; ' + 'set "b" "${a}${a}${a}${a}${a}${a}${a}${a}${a}";',
        "".join(f'set "v{number}" "x";' for number in range(300)),
        'fileinto "a\u0001b";',
        'set "x" "a b"; redirect "${x}";',
        'set "x" "("; if header :regex "subject" "${x}" { discard; }',
        'foreverypart { foreverypart { error "x"; } }',
    ],
)
def test_a_script_that_goes_too_far_keeps_the_message_and_does_nothing_else(does: Does, script: str) -> None:
    message = MIME if "foreverypart" in script else A
    (answer,) = does(script, message)
    assert answer.startswith("error line 3: ")


def test_no_script_runs_for_ever(does: Does) -> None:
    message = A + "".join(random.Random(3).choices("ab", k=200_000))
    script = "".join(f'if body :raw :regex "(a|b)*a(a|b){{{n}}}c" {{ discard; }}\n' for n in range(30, 80))
    script += "".join(f'if body :raw :matches "*a?a*?b{n}" {{ discard; }}\n' for n in range(300))
    (answer,) = does(script, message)
    assert "compares too much" in answer
