"""Our interpreter and Dovecot's (Pigeonhole's ``sieve-test``) come to the same actions for the same scripts.

A pair is a script and a message; what is compared is what becomes of the message: folders with flags,
redirects, rejection, replies, notices, or that the script is refused. Where we mean to differ is listed.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorrainemail.addresses import parse_address
from lorrainemail.grammar.sieve import SieveError
from lorrainemail.sieve.effects import Context, Envelope, FileInto, Keep, Redirect, Reject, Sent
from lorrainemail.sieve.language import compile_script
from lorrainemail.sieve.message import Message
from lorrainemail.sieve.run import run_program

pytestmark = pytest.mark.interop

SENDER, RECIPIENT = "carole+work@elorac.fr", "bob+list@bricoleur.com"

MESSAGES = {
    "plain": """From: Carole <carole@elorac.fr>
To: bob+list@bricoleur.com
Cc: "Doe, John" <john.doe@Example.COM>, jane@example.org
Subject: [twisted] Hello  World
Date: Sun, 22 Nov 2026 08:15:30 +0100
Message-ID: <one@elorac.fr>
X-Spam-Flag: YES
X-Score: 12
Received: from a (b [192.0.2.1]) by c; Sat, 21 Nov 2026 23:59:01 -0500
Received: from d by e; Fri, 20 Nov 2026 10:00:00 +0000

Hello Bob,
the price is $100 & more. 100%
""",
    "encoded": """From: =?utf-8?q?Ren=C3=A9?= <rene@elorac.fr>
To: undisclosed-recipients:;
Subject: =?iso-8859-1?Q?Gr=FC=DFe?= aus =?utf-8?B?TWV0eg==?=
Date: 1 Jan 2024 00:00:00 GMT
X-Empty:
X-Long: one
 two
\tthree

caf\u00e9
""",
    "list": """From: announce@lists.example.org
To: twisted-python@twistedmatrix.com, "Bob" <bob@bricoleur.com>
Sender: twisted-bounces@twistedmatrix.com
List-Id: The Twisted list <twisted-python.twistedmatrix.com>
List-Post: <mailto:twisted-python@twistedmatrix.com>
Precedence: list
Subject: Re: *stars* and ?marks?
Date: Tue, 29 Feb 2028 12:30:00 +0530

a*b?c
""",
    "mime": """From: "x y"@example.net
To: Friends: a@b.example, c@d.example;
Subject: parts
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="=b="

prologue words
--=b=
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Gr=FC=DFe und soft=
line
--=b=
Content-Type: text/html

<p>bold <b>words</b></p>
--=b=
Content-Type: application/octet-stream; name="invoice.pdf"
Content-Disposition: attachment; filename="invoice.pdf"
Content-Transfer-Encoding: base64

c2VjcmV0IG9jdGV0cw==
--=b=--
epilogue words
""",
}

ALL = (
    'require ["fileinto","envelope","variables","relational","subaddress","imap4flags","body","date","index",'
    '"copy","comparator-i;ascii-numeric","encoded-character","regex","reject","vacation","mailbox",'
    '"enotify","environment","ihave","editheader","mime","foreverypart","extracttext"];\n'
)

#: Tests, each of which files the message by what it came to.
TESTS = (
    'header "subject" "[twisted] Hello  World"',
    'header :is "Subject" "[TWISTED] hello  world"',
    'header :comparator "i;octet" :is "subject" "[TWISTED] hello  world"',
    'header :contains ["subject", "x-nothing"] ["hello", "nobody"]',
    'header :contains "x-nothing" ""',
    'header :contains "x-empty" ""',
    'header :is "x-empty" ""',
    'header :is "x-long" "one two three"',
    'header :contains "x-long" "two"',
    'header :contains "subject" "Grüße aus Metz"',
    'header :matches "subject" "*grü*e*"',
    'header :matches "subject" "*\\\\*stars\\\\*?and*"',
    'header :matches "subject" "*\\\\?marks\\\\?"',
    'header :matches "subject" "?????"',
    'header :matches "subject" "*"',
    'header :matches "subject" ""',
    'header :regex "subject" "^\\\\[([a-z]+)\\\\]"',
    'header :regex :comparator "i;octet" "subject" "^\\\\[([A-Z]+)\\\\]"',
    'header :regex "subject" "(Re: )?\\\\*[[:alpha:]]{5}\\\\*"',
    'header :regex "subject" "^(parts|Grüße.*)$"',
    'header :regex "x-score" "^[0-9]+$"',
    'header :count "ge" :comparator "i;ascii-numeric" "received" "2"',
    'header :count "eq" :comparator "i;ascii-numeric" ["received", "subject"] "3"',
    'header :value "gt" :comparator "i;ascii-numeric" "x-score" "9"',
    'header :value "gt" "x-score" "9"',
    'header :value "lt" :comparator "i;ascii-numeric" "subject" "9"',
    'header :value "ne" "x-spam-flag" "yes"',
    'header :value "eq" "x-spam-flag" "yes"',
    'header :index 1 :contains "received" "192.0.2.1"',
    'header :index 2 :contains "received" "192.0.2.1"',
    'header :index 1 :last :contains "received" "from d"',
    'address "from" "carole@elorac.fr"',
    'address :localpart "from" "carole"',
    'address :domain "from" ["elorac.fr", "example.net"]',
    'address :domain "cc" "example.com"',
    'address :localpart :matches "to" "bob*"',
    'address :user "to" "bob"',
    'address :detail "to" "list"',
    'address :detail "to" ""',
    'address :all :contains ["to", "cc"] "jane@"',
    'address :count "eq" :comparator "i;ascii-numeric" "to" "2"',
    'address :count "eq" :comparator "i;ascii-numeric" ["to", "cc"] "3"',
    'address :is "to" "a@b.example"',
    'address :localpart "from" "x y"',
    'envelope "from" "carole+work@elorac.fr"',
    'envelope :user "from" "carole"',
    'envelope :detail "from" "work"',
    'envelope :domain "to" "bricoleur.com"',
    'envelope :detail :is "to" "list"',
    'envelope :all :contains ["from", "to"] "bricoleur"',
    'exists "list-id"',
    'exists ["subject", "date"]',
    'exists ["subject", "x-never"]',
    "size :over 400",
    "size :under 500",
    "not size :over 1K",
    "allof (true, not false)",
    'anyof (false, header :is "x-spam-flag" "YES")',
    'allof (exists "x-score", anyof (false, false))',
    'body :contains "PRICE"',
    'body :raw :contains "=b="',
    'body :text :contains "soft"',
    'body :text :contains "Grüße und softline"',
    'body :content "text" :contains "bold <b>"',
    'body :content "text/plain" :contains "words"',
    'body :content "application" :contains "secret octets"',
    'body :content "multipart" :contains "prologue"',
    'body :content "" :contains "epilogue"',
    'body :contains "café"',
    'body :raw :matches "*100?*"',
    'date :zone "+0100" "date" "hour" "08"',
    'date :originalzone "date" "hour" "12"',
    'date :zone "+0000" "date" "date" "2026-11-22"',
    'date :value "ge" :zone "+0000" "date" "year" "2027"',
    'date :is :zone "+0000" "date" "weekday" ["0", "1"]',
    'date :is :zone "+0000" "date" "julian" "61366"',
    'date :is :originalzone "date" "iso8601" "2026-11-22T08:15:30+01:00"',
    'date :is :originalzone "date" "std11" "Sun, 22 Nov 2026 08:15:30 +0100"',
    'date :is :originalzone "date" "zone" "+0530"',
    'date :is :originalzone "received" "day" "21"',
    'date :is :index 2 :zone "+0000" "received" "day" "20"',
    'currentdate :value "ge" "year" "2020"',
    'string "abc" ["x", "ABC"]',
    'string :matches "abc.def" "*.*"',
    'string :count "eq" :comparator "i;ascii-numeric" ["a", "", "b"] "2"',
    'string "${hex:24 41}" "$a"',
    'string "${unicode:40}" "@"',
    'string "${hex:zz}" "${hex:zz}"',
    'environment "phase" "x"',
    'environment :contains "name" "never that name"',
    'mailboxexists "INBOX"',
    'ihave ["fileinto", "vacation"]',
    'ihave "no-such-extension"',
    'valid_notify_method "mailto:a@b.example"',
    'valid_notify_method ["mailto:a@b.example", "unknown:x"]',
    'hasflag "x"',
    'header :mime :anychild :contenttype "content-type" "text/html"',
    'header :mime :anychild :subtype "content-type" ["pdf", "html"]',
    'header :mime :anychild :param "filename" "content-disposition" "invoice.pdf"',
    'header :mime :type "content-type" "multipart"',
)

#: Whole scripts (after the require line).
SCRIPTS = (
    "",
    "keep;",
    "discard;",
    "keep; discard;",
    "stop; discard;",
    'fileinto "a"; fileinto "b";',
    'fileinto "a"; fileinto "a"; keep;',
    'fileinto :copy "a";',
    'redirect "x@y.example";',
    'redirect :copy "x@y.example"; fileinto "b";',
    'redirect "x@y.example"; redirect "x@y.example"; redirect "z@y.example";',
    'if false { discard; } elsif true { fileinto "elsif"; } else { fileinto "else"; }',
    'if false { discard; } elsif false { fileinto "elsif"; } else { fileinto "else"; }',
    'if true { if header :contains "subject" "hello" { fileinto "deep"; stop; } fileinto "less"; }',
    'reject "go away";',
    'setflag "\\\\Seen";',
    'addflag ["\\\\Flagged", "Work Home"]; removeflag "home"; fileinto "a";',
    'addflag "a"; keep :flags ["b", "\\\\deleted"];',
    'addflag "v" "a b"; removeflag "v" "a"; fileinto :flags "${v}" "f";',
    'setflag "A b"; if hasflag "a" { fileinto "has"; }',
    'setflag ["a", "b"]; if hasflag :count "eq" :comparator "i;ascii-numeric" "2" { fileinto "two"; }',
    'setflag "xyz"; if hasflag :contains "y" { fileinto "part"; }',
    'set "a" "b"; set "c" "${a}${A}${nothing}"; fileinto "x-${c}";',
    'set :upper "a" "bc"; set :length "l" "${a}dé"; fileinto "${a}${l}";',
    'set :lower :upperfirst "a" "JUMBLED lETTERS"; fileinto "${a}";',
    'set :quotewildcard "a" "Rock*"; fileinto "${a}";',
    'if header :matches "subject" "*[*]*" { fileinto "1${1}|2${2}|3${3}"; }',
    'if header :matches "subject" "??w*" { fileinto "${1}|${2}|${3}|${0}"; }',
    'if header :matches "list-id" "*<*.*>*" { fileinto "${1}|${2}|${3}|${4}"; }',
    'if string :matches "a.b.c.d" "*.*" { fileinto "${1}|${2}"; }',
    'if string :matches "aXbXc" "*X*" { fileinto "${1}|${2}"; }',
    'if string :regex "foo123bar" "([a-z]+)([0-9]*)(b|ba)?" { fileinto "${0}|${1}|${2}|${3}"; }',
    'if string :regex "abcd" "(a|ab)(c|bcd)" { fileinto "${0}|${1}|${2}"; }',
    'if string :regex "xaaay" "a*" { fileinto "e${0}"; } else { fileinto "none"; }',
    'if string :regex "xaaay" "a+" { fileinto "e${0}"; } else { fileinto "none"; }',
    'if header :matches "subject" "*hello*" { set "x" "${1}"; } if true { fileinto "x${x}|${1}"; }',
    'fileinto "${1}x"; ',
    'if not string "${hi there}" "${hi there}" { discard; }',
    'if string "a" "${" { discard; } fileinto "end$";',
    'vacation "I am away";',
    'vacation :days 3 :subject "gone" :addresses ["bob@bricoleur.com"] "I am away";',
    'vacation :addresses ["a@b.example"] :handle "h" "I am away";',
    'vacation "one"; vacation "two";',
    'notify "mailto:x@y.example";',
    'notify :importance "1" :message "hi" "mailto:x@y.example";',
    'addheader "X-New" "hello"; if header "x-new" "hello" { fileinto "new"; }',
    'deleteheader "subject"; if exists "subject" { fileinto "still"; } else { fileinto "gone"; }',
    'deleteheader :index 1 "received"; if header :contains "received" "192" { fileinto "still"; }',
    'deleteheader :contains "x-spam-flag" "y"; if exists "x-spam-flag" { fileinto "still"; }',
    'foreverypart { if header :mime :contenttype "content-type" "text/html" { fileinto "html"; break; } }',
    'foreverypart { if header :mime :type "content-type" "text" { extracttext :first 4 "t";'
    ' fileinto "${t}"; break; } }',
    "keep /* a comment */ ; # another\n",
    'set "t" text: # comment\n..folder\n.\n; if string :matches "${t}" ".folder??" { fileinto "dot"; }',
    "if allof (true, true) { keep; }",
    'if anyof (ihave "x-none", true) { fileinto "any"; }',
    'if ihave "x-none" { x_none "y"; } else { fileinto "no"; }',
)

#: What is no script; without the require line.
BROKEN = (
    "keep",
    "keep keep;",
    'fileinto "a";',
    'require "nonesuch"; keep;',
    'keep; require "fileinto";',
    "if { keep; }",
    "if true keep;",
    "else { keep; }",
    "if header { keep; }",
    'if header :is :contains "a" "b" { keep; }',
    'if header :comparator "i;none" "a" "b" { keep; }',
    'if header "a b" "c" { keep; }',
    "if size 100 { keep; }",
    'if size :over "a" { keep; }',
    "if not (true) { keep; }",
    "if allof true { keep; }",
    "if true { keep;",
    "keep; }",
    'redirect "not an address";',
    'redirect ["a@b.example"];',
    '"keep";',
    "keep 1;",
    "stop :now;",
    'if header :count "xx" "a" "b" { keep; }',
    'require "relational"; if header :count "xx" "a" "b" { keep; }',
    'require "imap4flags"; keep :flags;',
    'require "variables"; set "a b" "c";',
    'require "variables"; set "1" "c";',
    'require "variables"; set :lower :upper "a" "c";',
    'require "fileinto"; fileinto :copy "a";',
    'require "date"; if date :zone "x" "date" "hour" "1" { keep; }',
    'require "vacation"; vacation :days "x" "y";',
    'require "include"; include "not-there";',
    'if address "subject" "x" { keep; }',
    "keep; /* no end",
    'redirect "no end',
    "fileinto text:\nno end",
    "keep; é",
    'if header :value "gt" "a" "b" { keep; }',
    'require "foreverypart"; break;',
    'if metadata "INBOX" "/private/x" "y" { keep; }',
    'require "mboxmetadata"; if metadata "/private/x" "y" { keep; }',
    'require "mboxmetadata"; if metadataexists "/private/x" { keep; }',
    'require "mboxmetadata"; if metadata ["INBOX"] "/private/x" "y" { keep; }',
    'require "mboxmetadata"; if servermetadata "/private/x" "y" { keep; }',
    'require "servermetadata"; if servermetadata "/private/x" 1 { keep; }',
    'require "servermetadata"; if servermetadataexists :is "/private/x" { keep; }',
    'require "regex"; if header :regex "subject" "(" { keep; }',
    'require "regex"; if header :regex "subject" "[a" { keep; }',
    'require "comparator-i;ascii-numeric"; '
    'if header :contains :comparator "i;ascii-numeric" "a" "1" { keep; }',
)

_NOT_ADDRESSED = "sieve-test shows a reply before it asks whether one is due"
_VACATIONS = [script for script in SCRIPTS if script.startswith("vacation")]
#: Where we mean to differ, and why: a script or test, or one of them with a message.
DIFFERENCES: dict[object, str] = {
    'string "abc" ["x", "ABC"]': "RFC 5228 §2.7.3: the default comparator is i;ascii-casemap, here too",
    'string "${hex:24 41}" "$a"': "the same",
    'date :is :index 2 :zone "+0000" "received" "day" "20"': "theirs does not see the second field",
    'if header :matches "subject" "??w*" { fileinto "${1}|${2}|${3}|${0}"; }': "theirs forgets the w",
    'foreverypart { if header :mime :type "content-type" "text" { extracttext :first 4 "t";'
    ' fileinto "${t}"; break; } }': "theirs counts octets, not characters",
    'require "date"; if date :zone "x" "date" "hour" "1" { keep; }': "theirs only warns",
    'vacation "one"; vacation "two";': "theirs shows nothing where a script fails on its way",
    **{(script, name): _NOT_ADDRESSED for script in _VACATIONS for name in ("encoded", "list", "mime")},
}

CONFIGURATION = """mail_location = maildir:{directory}/md
log_path = /dev/stderr
mail_uid = nobody
mail_gid = nogroup
first_valid_uid = 1
first_valid_gid = 1
plugin {{
  sieve_extensions = +vacation-seconds +editheader +mboxmetadata +servermetadata
}}
"""


class Pigeonhole:
    """``sieve-test`` in a directory of its own."""

    def __init__(self, program: str, directory: Path) -> None:
        self.program = program
        self.directory = directory
        (directory / "dovecot.conf").write_text(CONFIGURATION.format(directory=directory))
        for name, text in MESSAGES.items():
            (directory / f"{name}.eml").write_text(text, encoding="utf-8")
        self.count = 0

    def run(self, script: str, message: str) -> frozenset[str]:
        """What it says becomes of the message."""
        self.count += 1
        path = self.directory / f"s{self.count}.sieve"
        path.write_text(script, encoding="utf-8")
        for entry in self.directory.iterdir():
            os.chmod(entry, 0o777 if entry.is_dir() else 0o666)
        done = subprocess.run(
            [self.program, "-c", str(self.directory / "dovecot.conf"), "-f", SENDER, "-r", RECIPIENT,
             "-a", RECIPIENT, str(path), str(self.directory / f"{message}.eml")],
            capture_output=True, text=True, timeout=20, env={**os.environ, "HOME": str(self.directory)},
        )  # fmt: skip
        if "failed to compile" in done.stderr or "validation failed" in done.stderr:
            return frozenset({"broken"})
        return _actions(done.stdout)


def _actions(output: str) -> frozenset[str]:
    found = []
    folder = ""
    for line in output.splitlines():
        store = re.match(r" \* store message in folder: (.*)", line)
        if store:
            folder = store.group(1)
            found.append(f"store {folder}")
        elif line.strip().startswith("+ add IMAP flags:") and found:
            found[-1] += " " + " ".join(sorted(line.split(":", 1)[1].lower().split()))
        elif line.startswith(" * redirect message to:"):
            found.append("redirect " + line.split("<")[1].rstrip(">"))
        elif line.startswith(" * reject message"):
            found.append("reject")
        elif line.startswith(" * send vacation"):
            found.append("vacation")
        elif line.startswith(" * send notification"):
            found.append("notify")
    return frozenset(found)


def ours(script: str, message: str) -> frozenset[str]:
    try:
        program = compile_script(script.encode())
    except SieveError as error:
        assert error.line and error.column
        return frozenset({"broken"})
    result = run_program(
        program,
        Message.of(MESSAGES[message].encode().replace(b"\n", b"\r\n")),
        Envelope(parse_address(SENDER), parse_address(RECIPIENT)),
        Context(now=1.8e9, folders={"INBOX": ()}, environment={"phase": "during", "name": "us"}),
    )
    found = []
    for effect in result.effects:
        if isinstance(effect, Keep | FileInto):
            folder = "INBOX" if isinstance(effect, Keep) else effect.folder
            flags = " ".join(sorted(flag.lower() for flag in effect.flags))
            found.append(f"store {folder}" + (f" {flags}" if flags else ""))
        elif isinstance(effect, Redirect):
            found.append(f"redirect {effect.address}")
        elif isinstance(effect, Reject):
            found.append("reject")
        elif isinstance(effect, Sent):
            found.append(effect.kind)
    return frozenset(found)


@pytest.fixture
def pigeonhole(tool: Callable[[str], str]) -> Iterator[Pigeonhole]:
    program = tool("sieve-test")
    with tempfile.TemporaryDirectory(prefix="sieve") as directory:
        os.chmod(directory, 0o777)  # it gives up root
        yield Pigeonhole(program, Path(directory))


def _compared(pigeonhole: Pigeonhole, script: str, message: str) -> str:
    """ "" where both agree, else both answers."""
    theirs, mine = pigeonhole.run(script, message), ours(script, message)
    return (
        ""
        if theirs == mine
        else f"{script[len(ALL) :] if script.startswith(ALL) else script!r}\n"
        f"  on {message}: theirs {sorted(theirs)}, ours {sorted(mine)}"
    )


def _fail(different: list[str]) -> None:
    found = [one for one in different if one]
    if found:
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.parametrize("message", MESSAGES)
def test_every_test_comes_to_the_same(pigeonhole: Pigeonhole, message: str) -> None:
    different = []
    for test in TESTS:
        script = ALL + f'if {test} {{ fileinto "yes"; }} else {{ fileinto "no"; }}\n'
        if test not in DIFFERENCES:
            different.append(_compared(pigeonhole, script, message))
    _fail(different)


@pytest.mark.parametrize("message", MESSAGES)
def test_every_script_comes_to_the_same(pigeonhole: Pigeonhole, message: str) -> None:
    different = [
        _compared(pigeonhole, ALL + script, message)
        for script in SCRIPTS
        if (script, message) not in DIFFERENCES and script not in DIFFERENCES
    ]
    _fail(different)


def test_what_is_no_script_for_them_is_none_for_us(pigeonhole: Pigeonhole) -> None:
    different = [_compared(pigeonhole, script, "plain") for script in BROKEN if script not in DIFFERENCES]
    _fail(different)
