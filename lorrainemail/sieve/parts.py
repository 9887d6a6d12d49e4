"""MIME parts: foreverypart, break, replace, enclose, extracttext (RFC 5703 §3, §5, §6, §7)."""

from __future__ import annotations

import hashlib
from typing import Final

from lorrainemail.grammar.sieve import Node
from lorrainemail.message.header import body_offset, fields
from lorrainemail.message.received import rfc5322_date
from lorrainemail.message.structure import Part
from lorrainemail.sieve.compiler import Compiler, Form, Given, Tagged
from lorrainemail.sieve.composing import own_author
from lorrainemail.sieve.message import field, part_text
from lorrainemail.sieve.run import MAX_VALUE, Action, Break, Run, RunError
from lorrainemail.sieve.variables import MODIFIER_GROUPS, MODIFIER_TAGS, modifier, variable_name

#: Loops within loops (RFC 5703 §3.1 asks for five levels at least).
MAX_LOOPS: Final = 8
#: Characters of a replacement; how often a message is enclosed.
MAX_REPLACEMENT: Final = 256 * 1024
MAX_ENCLOSURES: Final = 3


def _foreverypart(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 5703 §3.1: depth first; within a loop the parts below the current one."""
    name = compiler.constant(node, given.get("name", ""), "a loop's name")
    if len(compiler.loops) >= MAX_LOOPS:
        compiler.fail(node, f"loops are nested deeper than {MAX_LOOPS} levels")
    compiler.shared.needs.add("body")
    compiler.loops.append(name)
    steps = compiler.block(node.block or ())
    compiler.loops.pop()

    def foreverypart(run: Run) -> None:
        outer = run.part
        if outer is None:
            tops: tuple[Part, ...] = (run.message.structure,)
            run.whole, run.replacements = run.message.data, []
        else:
            tops = outer.parts
        try:
            for top in tops:
                for part in top.walk():
                    run.part = part
                    run.work.spend(50)
                    run.execute(steps)
        except Break as left:
            if left.name and left.name != name:
                raise
        finally:
            run.part = outer
            if outer is None and run.replacements:
                data, run.replacements = run.replaced(), []
                run.message.rewrite(data)

    return foreverypart


def _break(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 5703 §3.2."""
    name = compiler.constant(node, given.get("name", ""), "a loop's name")
    if not compiler.loops:
        compiler.fail(node, '"break" outside of a loop')
    if name and name not in compiler.loops:
        compiler.fail(node, f'no loop around here has the name "{name[:60]}"')

    def leave(run: Run) -> None:
        raise Break(name)

    return leave


def _entity(text: str, mime: bool) -> tuple[bytes, bytes]:
    """Content-* fields and body of a replacement (RFC 5703 §5)."""
    octets = text[:MAX_REPLACEMENT].replace("\r\n", "\n").replace("\n", "\r\n").encode("utf-8", "replace")
    if not octets.endswith(b"\r\n"):
        octets += b"\r\n"
    if not mime:
        return b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n", octets
    at = body_offset(octets)
    head = b"".join(
        octets[found.start : found.end]
        for found in fields(octets, 0, at)
        if found.name.startswith(b"content-")
    )
    return head, octets[at:]


def _replace(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 5703 §5."""
    (replacement,) = given.values
    mime = "mime" in given
    compiler.shared.needs.add("body")

    def replace(run: Run) -> None:
        head, body = _entity(run.text(replacement), mime)
        part = run.part
        if part is not None and part.start > 0:
            run.replacements.append((part.start, part.end, head + b"\r\n" + body.removesuffix(b"\r\n")))
            run.note("replace: this part")
        else:
            message = run.message
            data = message.data
            kept = [
                data[found.start : found.end]
                for found in fields(data, 0, len(message.header))
                if not found.name.startswith(b"content-") and found.name != b"mime-version"
            ]
            for name in ("subject", "from"):
                text = run.text(given.get(name, ""))
                if name in given and (name != "from" or own_author(run, text)):
                    kept = [_as_original(line, name) for line in kept]
                    kept.append(field(name.title(), text))
            whole = b"".join([*kept, b"MIME-Version: 1.0\r\n", head, b"\r\n", body])
            if part is None:
                message.rewrite(whole)
            else:
                run.replacements.append((0, len(run.whole), whole))
            run.note("replace: the whole body")
        run.work.spend(len(run.whole) >> 4)

    return replace


def _as_original(line: bytes, name: str) -> bytes:
    found, colon, value = line.partition(b":")
    if colon and found.strip().lower() == name.encode("ascii"):
        return b"Original-" + name.title().encode("ascii") + b":" + value
    return line


def _enclose(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 5703 §6: the message becomes the attachment of a new one."""
    (text,) = given.values
    compiler.shared.needs.add("body")

    def enclose(run: Run) -> None:
        if run.part is not None:
            raise RunError("enclose does not work within a loop over parts")
        run.enclosures += 1
        if run.enclosures > MAX_ENCLOSURES:
            raise RunError(f"more than {MAX_ENCLOSURES} enclosures")
        message, context = run.message, run.context
        data = message.data
        run.work.spend(len(data) >> 3)
        wanted = [name.lower() for name in run.texts(given.get("headers", ()))]
        head = [line for name in dict.fromkeys(wanted) for line in message.lines(name)]
        if "from" not in wanted:
            head.append(field("From", str(run.envelope.recipient)))
        if "date" not in wanted:
            head.append(f"Date: {rfc5322_date(context.now)}\r\n".encode("ascii"))
        subject = given.get("subject")
        if subject is not None:
            head = [line for line in head if line[:8].lower() != b"subject:"]
            head.append(field("Subject", run.text(subject)))
        boundary = b"=_" + hashlib.sha256(data).hexdigest()[:40].encode("ascii")
        inner, body = _entity(run.text(text), False)
        encoding = b"7bit" if data.isascii() and body.isascii() else b"8bit"
        run.message.rewrite(
            b"".join(
                [
                    *head,
                    b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="%b"\r\n' % boundary,
                    b"Content-Transfer-Encoding: %b\r\n\r\n" % encoding,
                    b"--%b\r\n%b\r\n%b" % (boundary, inner, body),
                    b"--%b\r\nContent-Type: message/rfc822\r\n\r\n" % boundary,
                    data,
                    b"" if data.endswith(b"\r\n") else b"\r\n",
                    b"--%b--\r\n" % boundary,
                ]
            )
        )
        run.note("enclose: the message is an attachment now")

    return enclose


def _extracttext(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 5703 §7."""
    compiler.need(node, "variables", '"extracttext"')
    name = variable_name(compiler, node, given.values[0])
    if not compiler.loops:
        compiler.fail(node, '"extracttext" outside of a loop over parts')
    first: int = min(given.get("first", MAX_VALUE), MAX_VALUE)
    change = modifier(given)

    def extracttext(run: Run) -> None:
        part = run.part
        text = ""
        if part is not None and part.type == b"text":
            run.work.spend((part.end - part.body) >> 3)
            text = part_text(run.whole, part)
        run.set_variable(name, change(text[:first]))
        run.note(f"extracttext: {name} has {min(len(text), first)} characters")

    return extracttext


COMMANDS: Final = {
    "replace": Form(
        _replace,
        {"mime": Tagged(), "subject": Tagged("string"), "from": Tagged("string")},
        (),
        ("string",),
        extension="replace",
    ),
    "enclose": Form(
        _enclose,
        {"subject": Tagged("string"), "headers": Tagged("strings")},
        (),
        ("string",),
        extension="enclose",
    ),
    "foreverypart": Form(_foreverypart, {"name": Tagged("string")}, block=True, extension="foreverypart"),
    "break": Form(_break, {"name": Tagged("string")}, extension="foreverypart"),
    "extracttext": Form(
        _extracttext,
        {**MODIFIER_TAGS, "first": Tagged("number")},
        MODIFIER_GROUPS,
        ("string",),
        extension="extracttext",
    ),
}
