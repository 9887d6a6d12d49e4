"""The manual pages, made from the parsers, the configuration's own reference, and a little prose.

``python -m lorrainemail.cli.manual DIRECTORY`` writes lorrainemail(1), lorrainemail.toml(5) and sendmail(1)
there; ``docs/man`` holds them, and a test keeps the two equal. Pure but for that.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from lorrainemail.cli.grammar import Option, Word, all_words
from lorrainemail.config.reference import reference
from lorrainemail.version import VERSION

_INTRODUCTION: Final = """\
.SH NAME
lorrainemail \\- the operator's command of the lorrainemail mail server
.SH SYNOPSIS
.B lorrainemail
.RB [ \\-\\-config
.IR FILE ]
.RB [ \\-\\-state
.IR DIRECTORY ]
.I COMMAND
.RI [ WORD " ...]"
.SH DESCRIPTION
The server itself is started by
.BR "twistd \\-n lorrainemail" .
This command works on the same configuration and state: through the running server where that is needed, on
its files else. No command needs a terminal, a password never stands on the command line, and listings have
.B \\-\\-json
for scripts: one object with a field
.BR version .
.SH OPTIONS
These may stand after any word.
"""

_END: Final = """\
.SH EXIT STATUS
0 done; 1 failed, with a word on standard error; 2 wrong usage.
.SH FILES
.TP
.I /etc/lorrainemail/lorrainemail.toml
the configuration, where neither
.B \\-\\-config
nor
.B \\-\\-state
says otherwise; see
.BR lorrainemail.toml (5).
.TP
.I /var/lib/lorrainemail
the state: mail, queue, tables, keys.
.SH SEE ALSO
.BR lorrainemail.toml (5),
.BR sendmail (1),
.BR twistd (1)
"""

_SENDMAIL: Final = """\
.SH NAME
sendmail, mailq, newaliases \\- hand a message to the lorrainemail server
.SH SYNOPSIS
.B sendmail
.RI [ options ]
.RI [ recipient " ...]"
.br
.B mailq
.br
.B newaliases
.SH DESCRIPTION
.B sendmail
reads a message from standard input and hands it to the running server by its UNIX socket, for all recipients
or, with a word on standard error, for none. When it exits with 0 the message is durable there.
.B mailq
lists what waits in the queue.
.B newaliases
says whether the server can read the file
.IR aliases ,
which it does by itself. Options of other servers that mean nothing here are taken and ignored.
.SH OPTIONS
"""
_SENDMAIL_OPTIONS: Final = (
    ("-t", "take the recipients from To, Cc and Bcc; Bcc is removed"),
    ("-f, -r ADDRESS", "the envelope's sender"),
    ("-F NAME", "the sender's full name, for a message without From"),
    ("-i, -oi", "a line with a single dot does not end the message"),
    ("-bm", "hand a message over (the default)"),
    ("-bp", "as mailq"),
    ("-bi", "as newaliases"),
    ("-q", "have the queue tried now"),
    ("-v", "say what is done"),
    ("--config FILE, -C FILE", "the configuration file"),
    ("--state DIRECTORY", "the state directory"),
)
_SENDMAIL_END: Final = """\
.SH EXIT STATUS
As in
.BR sysexits.h (3head):
0 done, 64 wrong usage, 65 wrong addresses or message, 75 try again (no server runs).
.SH SEE ALSO
.BR lorrainemail (1)
"""


def pages() -> dict[str, str]:
    """The pages by their file names."""
    return {
        "lorrainemail.1": _command_page(all_words()),
        "lorrainemail.toml.5": _configuration_page(),
        "sendmail.1": _sendmail_page(),
    }


def escaped(text: str) -> str:
    """Text as roff takes it."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def _head(name: str, section: int) -> str:
    return f'.TH {name.upper()} {section} "" "lorrainemail {VERSION}" "lorrainemail"\n.ad l\n'


def _command_page(words: list[Word]) -> str:
    parts = [_head("lorrainemail", 1), _INTRODUCTION]
    parts += [_option(option) for option in words[0].options]
    parts.append(".SH COMMANDS\n")
    for word in words[1:]:
        if word.below and not word.options and not word.arguments:
            parts.append(f".SS lorrainemail {escaped(' '.join(word.path))} WORD\n")
        else:
            parts.append(f".SS lorrainemail {escaped(_usage(word))}\n")
        line = word.description or _line(words, word.path)
        if line:
            parts.append(escaped(line[:1].upper() + line[1:].rstrip(".")) + ".\n")
        parts += [_option(one) for one in (*word.arguments, *word.options) if one.help or one.names]
    parts.append(_END)
    return "".join(parts)


def _line(words: list[Word], path: tuple[str, ...]) -> str:
    """What the word above says of this one."""
    return next((word.below.get(path[-1], "") for word in words if word.path == path[:-1]), "")


def _usage(word: Word) -> str:
    told = list(word.path)
    for option in word.options:
        shown = option.names[-1] + (f" {option.metavar}" if option.metavar else "")
        told.append(shown if option.needed else f"[{shown}]")
    told += [one.metavar if one.needed else f"[{one.metavar}]" for one in word.arguments]
    return " ".join(told)


def _option(option: Option) -> str:
    names = ", ".join(f"\\fB{escaped(name)}\\fR" for name in option.names)
    value = f"\\fI{escaped(option.metavar)}\\fR" if option.metavar else ""
    return f".TP\n{' '.join(filter(None, (names, value)))}\n{escaped(option.help)}\n"


def _sendmail_page() -> str:
    options = "".join(f".TP\n\\fB{escaped(name)}\\fR\n{escaped(line)}\n" for name, line in _SENDMAIL_OPTIONS)
    return _head("sendmail", 1) + _SENDMAIL + options + _SENDMAIL_END


def _configuration_page() -> str:
    text = reference().partition(".. This file")[2].partition("\n\n")[2]  # what follows title and comment
    head = ".SH NAME\nlorrainemail.toml \\- configuration of the lorrainemail mail server\n.SH DESCRIPTION\n"
    tail = ".SH SEE ALSO\n.BR lorrainemail (1)\n"
    return _head("lorrainemail.toml", 5) + (head + _from_rst(text)).replace("\n.PP\n", "\n", 1) + tail


def _from_rst(text: str) -> str:
    """The little of reStructuredText that it uses: titles, paragraphs, definitions, literal blocks."""
    out: list[str] = []
    blocks = re.split(r"\n\n+", text.strip("\n"))
    literal = False
    for block in blocks:
        lines = block.split("\n")
        if literal and lines[0].startswith(" "):
            out.append(".PP\n.nf\n.RS\n" + "".join(escaped(line[4:]) + "\n" for line in lines) + ".RE\n.fi\n")
            continue
        literal = False
        while len(lines) > 1 and re.fullmatch(r"=+|-+", lines[1]):
            out.append(f".SH {escaped(lines[0]).upper()}\n")
            lines = lines[2:]
        if not lines:
            continue
        if len(lines) > 1 and not lines[0].startswith(" ") and lines[1].startswith("    "):
            out += _definitions(lines)
        else:
            out.append(".PP\n" + _inline("\n".join(line.strip() for line in lines)) + "\n")
        literal = lines[-1].endswith("::")
    return re.sub(r"(\.SH [^\n]*\n)\.PP\n", r"\1", "".join(out))


def _definitions(lines: list[str]) -> list[str]:
    out = []
    for line in lines:
        if line.startswith("    "):
            out.append(_inline(line.strip()) + "\n")
        else:
            out.append(f".TP\n{_inline(line)}\n")
    return out


def _inline(text: str) -> str:
    text = re.sub(r"\\ :sup:`(\d+)`", r"^\1", text)
    text = re.sub(r"::$", ":", text)
    pieces = re.split(r"``(.*?)``", text, flags=re.DOTALL)
    shown = [
        f"\\fB{escaped(p)}\\fR" if at % 2 else escaped(p.replace("\\\\", "\\")) for at, p in enumerate(pieces)
    ]
    return "".join(shown)


def main() -> int:
    directory = Path(sys.argv[1])
    for name, text in pages().items():
        (directory / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
