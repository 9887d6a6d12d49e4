"""Messages that scripts have sent: vacation replies (RFC 5230, RFC 6131, RFC 3834) and notifications by mail
(RFC 5435, RFC 5436), with a copy filed where that is wanted (RFC 8580).

The commands decide here, from the message alone, whether there is anything to send, and write it; whether the
sender was answered already is known to whoever carries the effect out.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote

import attrs

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.grammar.sieve import Node
from lorrainemail.message.received import rfc5322_date
from lorrainemail.sieve.actions import FILE_TAGS, fileinto_of, split_flags
from lorrainemail.sieve.compiler import MATCH_TAGS, MATCH_TYPES, Compiler, Form, Given, Tagged
from lorrainemail.sieve.effects import FileInto, Sent
from lorrainemail.sieve.message import field
from lorrainemail.sieve.run import MAX_NOTIFICATIONS, Action, Check, Run, RunError
from lorrainemail.sieve.surroundings import key_of
from lorrainemail.sieve.tests import is_field_name

#: Seconds between two replies to the same sender (RFC 5230 §4.1, RFC 6131 §2): bounds, and the default.
MIN_SECONDS: Final = 60
MAX_SECONDS: Final = 90 * 86400
DEFAULT_DAYS: Final = 7
#: Characters of a reply's subject and text.
MAX_SUBJECT: Final = 1000
MAX_TEXT: Final = 64 * 1024
#: Recipients of one notification.
MAX_RECIPIENTS: Final = 8
#: Message-ids in References.
MAX_REFERENCES: Final = 20

# RFC 3834 §2, RFC 5230 §4.6: who is never answered.
_ROBOT = re.compile(
    r"(?:mailer-daemon|postmaster|listserv|majordomo|no-?reply|do-?not-?reply|bounces?)\Z"
    r"|owner-|.*-(?:request|owner|bounces?|noreply)\Z",
    re.IGNORECASE,
)
_LIST_FIELDS: Final = (
    "list-id", "list-help", "list-subscribe", "list-unsubscribe", "list-post", "list-owner", "list-archive",
)  # fmt: skip
_RECIPIENT_FIELDS: Final = ("to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc")
_CONTENT = re.compile(rb"Content-[!-9;-~]+[ \t]*:", re.IGNORECASE)
_MESSAGE_ID = re.compile(r"<[\x21-\x3b\x3d\x3f-\x7e]{1,500}>")


def compose(
    run: Run, sender: str, to: str, subject: str, fields: list[bytes], body: str, mime: bool, number: int
) -> bytes:
    """A whole message in wire form."""
    context = run.context
    head = [
        _address_field("From", sender),
        _address_field("To", to),
        field("Subject", subject[:MAX_SUBJECT]),
        f"Date: {rfc5322_date(context.now)}\r\n".encode("ascii"),
        f"Message-ID: <{context.identity}.{number}.sieve@{context.hostname}>\r\n".encode("ascii", "replace"),
        *fields,
        b"MIME-Version: 1.0\r\n",
    ]
    text = body[:MAX_TEXT].replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    octets = text.replace("\n", "\r\n").encode("utf-8", "replace")
    if mime:
        octets = _entity(octets)
        return b"".join(head) + octets + (b"" if octets.endswith(b"\r\n") else b"\r\n")
    encoding = b"7bit" if octets.isascii() else b"8bit"
    if max(map(len, octets.split(b"\r\n"))) > 990:  # RFC 5322 §2.1.1
        import quopri

        octets = quopri.encodestring(octets.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")
        encoding = b"quoted-printable"
    head.append(b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: %b\r\n" % encoding)
    return b"".join(head) + b"\r\n" + octets + (b"" if octets.endswith(b"\r\n") else b"\r\n")


def _entity(octets: bytes) -> bytes:
    """A MIME entity with its own fields alone: others would be the letter's, a second From above all."""
    header, _, body = (b"\r\n" + octets).partition(b"\r\n\r\n")
    kept: list[bytes] = []
    keeping = False
    for line in header.split(b"\r\n"):
        if line[:1] not in (b" ", b"\t"):
            keeping = _CONTENT.match(line) is not None
        if keeping:
            kept.append(line + b"\r\n")
    return b"".join(kept) + b"\r\n" + body


def own_author(run: Run, origin: str) -> str:
    """``:from`` where it is an address of the account, else "": a script sends in nobody else's name
    (RFC 5230 §4.3, RFC 5436 §2.3)."""
    try:
        address = _from_address(origin)
    except AddressError:
        return ""
    own = run.context.addresses
    if address.key in own or address.key == run.envelope.recipient.key or f"@{address.domain}" in own:
        return origin
    run.note(f":from {address} is not the account's, left out")
    return ""


def _address_field(name: str, text: str) -> bytes:
    """A field with addresses: of a name beyond ASCII only the name is encoded (RFC 2047 §5)."""
    phrase, angle, address = text.rpartition("<")
    if text.isascii() or not angle or not address.isascii():
        if not text.isascii() and not angle:
            return f"{name}: {text}\r\n".encode("utf-8", "replace")  # RFC 6532: the address itself is UTF-8
        return field(name, text)
    encoded = field(name, phrase.strip().strip('"')).removesuffix(b"\r\n")
    return encoded + b" <" + address.encode("ascii") + b"\r\n"


def _copy(run: Run, given: Given) -> FileInto | None:
    """:fcc (RFC 8580 §3)."""
    name = given.get("fcc")
    if name is None:
        return None
    return attrs.evolve(
        fileinto_of(run, given, name, split_flags(run.texts(given.get("flags", ())))), version=None
    )


# -- vacation -------------------------------------------------------------------------------------------


def why_not(run: Run, own: frozenset[str]) -> str:
    """Why a reply would be wrong, "" where it would not (RFC 3834 §2, RFC 5230 §4.5, §4.6)."""
    sender, message = run.envelope.sender, run.message
    if sender is None:
        return "the sender is <>"
    if sender.key in own:
        return "it comes from the account itself"
    if _ROBOT.match(sender.local):
        return f"{sender} looks like a program"
    for value in message.values("auto-submitted"):
        if value.partition(";")[0].strip().lower() != "no":
            return "it was sent by a program (Auto-Submitted)"
    for value in message.values("precedence"):
        if value.strip().lower() in ("bulk", "list", "junk"):
            return f"its precedence is {value.strip().lower()}"
    for value in message.values("x-auto-response-suppress"):
        if {word.strip().lower() for word in value.split(",")} & {"all", "oof", "autoreply"}:
            return "it asks for no automatic reply"
    for name in _LIST_FIELDS:
        if message.exists(name):
            return "it came by a mailing list"
    for name in _RECIPIENT_FIELDS:
        for mailbox in message.addresses(name):
            if _key(str(mailbox)) in own:
                return ""
    return "it is not addressed to the account (see :addresses)"


def _key(text: str) -> str:
    try:
        return parse_address(text).key
    except AddressError:
        return text.lower()


def _vacation(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 5230 §4."""
    (reason,) = given.values
    if "fcc" not in given and any(tag in given for tag in FILE_TAGS):
        compiler.fail(node, ":flags, :create and :specialuse need :fcc here")
    if "specialuse" in given:
        compiler.shared.needs.add("folders")
    compiler.shared.needs.add("remembered")
    origin = given.get("from")
    if isinstance(origin, str):
        try:
            _from_address(origin)
        except AddressError as error:
            compiler.fail(node, f":from is no address: {error}")
    days: int = given.get("days", DEFAULT_DAYS)
    seconds: int = given.get("seconds", max(1, days) * 86400)
    seconds = max(MIN_SECONDS, min(seconds, MAX_SECONDS))

    def vacation(run: Run) -> None:
        if run.vacation:
            raise RunError("vacation may be used once only")
        if any(type(effect).__name__ == "Reject" for effect in run.effects):
            raise RunError("vacation does not go together with reject")
        run.vacation = True
        extra = {_key(text) for text in run.texts(given.get("addresses", ()))}
        own = run.context.addresses | {run.envelope.recipient.key} | frozenset(extra)
        reason_not = why_not(run, own)
        sender = run.envelope.sender
        if reason_not or sender is None:
            run.note(f"vacation: no reply, {reason_not}")
            return
        text = run.text(reason)
        subject = run.text(given.get("subject", ""))
        from_text = run.text(given.get("from", ""))
        handle = run.text(given.get("handle", "")) or key_of(subject, from_text, str("mime" in given), text)
        run.add(
            Sent(
                "vacation",
                None,
                (sender,),
                _reply(run, sender, from_text, subject, text, "mime" in given),
                key_of("vacation", handle, sender.key),
                seconds,
                _copy(run, given),
            )
        )
        run.note(f"vacation: a reply to {sender}, unless answered in the last {seconds} seconds")

    return vacation


def _from_address(text: str) -> Address:
    text = text.strip()
    if text.endswith(">") and "<" in text:
        text = text[text.rindex("<") + 1 : -1]
    return parse_address(text)


def _reply(run: Run, sender: Address, origin: str, subject: str, text: str, mime: bool) -> bytes:
    message = run.message
    origin = own_author(run, origin) if origin else ""
    if not subject:
        original = message.values("subject")
        subject = f"Auto: {original[0]}" if original and original[0] else "Automated reply"
    fields = [b"Auto-Submitted: auto-replied (vacation)\r\n"]
    ids = [
        match.group() for value in message.values("message-id")[:1] for match in _MESSAGE_ID.finditer(value)
    ]
    if ids:
        before = [
            m.group() for value in message.values("references")[:1] for m in _MESSAGE_ID.finditer(value)
        ]
        fields.append(field("In-Reply-To", ids[0]))
        fields.append(field("References", " ".join([*before[-MAX_REFERENCES:], ids[0]])))
    return compose(run, origin or str(run.envelope.recipient), str(sender), subject, fields, text, mime, 0)


# -- notify ---------------------------------------------------------------------------------------------


@attrs.frozen(slots=True)
class Mailto:
    """A mailto URI (RFC 6068), as far as a notification may use it."""

    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    subject: str
    body: str
    fields: tuple[tuple[str, str], ...]


def parse_mailto(uri: str) -> Mailto:
    """:raises ValueError: where it is none that a notification can go to."""
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme.lower() != "mailto" or len(uri) > 4000:
        raise ValueError("only mailto: is known here")
    path, _, query = rest.partition("?")
    to = [_decoded(part) for part in path.split(",") if part]
    cc: list[str] = []
    subject = body = ""
    fields: list[tuple[str, str]] = []
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        name, value = _decoded(name).lower(), _decoded(value)
        if name == "to":
            to += [part.strip() for part in value.split(",") if part.strip()]
        elif name == "cc":
            cc += [part.strip() for part in value.split(",") if part.strip()]
        elif name == "subject":
            subject = value
        elif name == "body":
            body = value
        elif (name.startswith("x-") or name in ("keywords", "comments")) and is_field_name(name):
            fields.append((name.title(), value))
    if not to:
        raise ValueError("the mailto: names nobody")
    if len(to) + len(cc) > MAX_RECIPIENTS:
        raise ValueError(f"a notification goes to {MAX_RECIPIENTS} addresses at most")
    try:
        return Mailto(
            tuple(parse_address(text) for text in to),
            tuple(parse_address(text) for text in cc),
            subject,
            body,
            tuple(fields[:8]),
        )
    except AddressError as error:
        raise ValueError(str(error)) from None


def _decoded(text: str) -> str:
    return unquote(text, errors="replace")


def _notify(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 5435 §3, by mail as RFC 5436 says."""
    (method,) = given.values
    if "fcc" not in given and any(tag in given for tag in FILE_TAGS):
        compiler.fail(node, ":flags, :create and :specialuse need :fcc here")
    if "specialuse" in given:
        compiler.shared.needs.add("folders")
    if isinstance(method, str):
        try:
            parse_mailto(method)
        except ValueError as error:
            compiler.fail(node, str(error))
    importance = given.get("importance", "2")
    if isinstance(importance, str) and importance not in _IMPORTANCE:
        compiler.fail(node, ':importance is "1", "2" or "3"')

    def notify(run: Run) -> None:
        try:
            uri = parse_mailto(run.text(method))
        except ValueError as error:
            raise RunError(str(error)) from None
        for value in run.message.values("auto-submitted"):
            if value.partition(";")[0].strip().lower() != "no":
                run.note("notify: none, the message was sent by a program")
                return
        count = sum(isinstance(effect, Sent) and effect.kind == "notify" for effect in run.effects)
        if count >= MAX_NOTIFICATIONS:
            raise RunError(f"more than {MAX_NOTIFICATIONS} notifications")
        run.add(
            Sent(
                "notify",
                None,
                (*uri.to, *uri.cc),
                _notification(run, given, uri, count),
                copy=_copy(run, given),
            )
        )
        run.note(f"notify {', '.join(map(str, (*uri.to, *uri.cc)))}")

    return notify


_IMPORTANCE: Final = {"1": ("High", "1 (Highest)"), "2": ("Normal", "3 (Normal)"), "3": ("Low", "5 (Lowest)")}


def _notification(run: Run, given: Given, uri: Mailto, number: int) -> bytes:
    """RFC 5436 §2.7."""
    owner = str(run.envelope.recipient)
    origin = own_author(run, run.text(given.get("from", "")))
    text = run.text(given.get("message", ""))
    subjects = run.message.values("subject")
    subject = text or uri.subject or (subjects[0] if subjects else "") or "New mail"
    body = uri.body
    if not body:
        senders = run.message.values("from")
        body = (
            "New mail has arrived.\r\n\r\n"
            f"From: {senders[0] if senders else '(nobody)'}\r\n"
            f"Subject: {subjects[0] if subjects else '(none)'}\r\n"
        )
    word, priority = _IMPORTANCE.get(run.text(given.get("importance", "2")), _IMPORTANCE["2"])
    fields = [
        field("Auto-Submitted", f'auto-notified; owner-email="{owner}"') if owner.isascii()
        else b"Auto-Submitted: auto-notified\r\n",
        field("Importance", word),
        field("X-Priority", priority),
        *(field(name, value) for name, value in uri.fields),
    ]  # fmt: skip
    if uri.cc:
        fields.append(field("Cc", ", ".join(map(str, uri.cc))))
    to = ", ".join(map(str, uri.to))
    return compose(run, origin or owner, to, subject, fields, body, False, number + 1)


def _valid_notify_method(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5435 §4."""
    (uris,) = given.values

    def valid(run: Run) -> bool:
        try:
            for uri in run.texts(uris):
                parse_mailto(uri)
        except ValueError:
            return False
        return True

    return valid


def _notify_method_capability(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5435 §5; by mail one never knows who is "online"."""
    uri, capability, keys = given.values
    matching = compiler.matching(node, given, keys)

    def capable(run: Run) -> bool:
        try:
            parse_mailto(run.text(uri))
        except ValueError:
            return False
        return run.text(capability).lower() == "online" and matching.any(run, ("maybe",))

    return capable


_FCC_TAGS: Final[dict[str, Tagged]] = {"fcc": Tagged("string", "fcc"), **FILE_TAGS}

COMMANDS: Final[dict[str, Any]] = {
    "vacation": Form(
        _vacation,
        {
            "days": Tagged("number"),
            "seconds": Tagged("number", "vacation-seconds"),
            "subject": Tagged("string"),
            "from": Tagged("string"),
            "addresses": Tagged("strings"),
            "mime": Tagged(),
            "handle": Tagged("string"),
            **_FCC_TAGS,
        },
        (frozenset({"days", "seconds"}),),
        ("string",),
        extension="vacation|vacation-seconds",
    ),
    "notify": Form(
        _notify,
        {
            "from": Tagged("string"),
            "importance": Tagged("string"),
            "options": Tagged("strings"),
            "message": Tagged("string"),
            **_FCC_TAGS,
        },
        (),
        ("string",),
        extension="enotify",
    ),
}
TESTS: Final = {
    "valid_notify_method": Form(_valid_notify_method, {}, (), ("strings",), extension="enotify"),
    "notify_method_capability": Form(
        _notify_method_capability,
        MATCH_TAGS,
        (MATCH_TYPES,),
        ("string", "string", "strings"),
        extension="enotify",
    ),
}
