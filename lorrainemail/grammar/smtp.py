"""The grammar of SMTP commands: octets of one line in, values out. No transport, no tables.

Owns the syntax of RFC 5321 §4.1 and of the extensions' parameters (SIZE, 8BITMIME, SMTPUTF8, DSN, AUTH), and
xtext. Callers: the SMTP doors (commands), the remote courier (xtext). Which parameters are *offered* is the
door's business and an argument here. Fails with :class:`PermanentError` whose reply goes to the client as it
stands: 500/501 for syntax, 553 5.6.7 for UTF-8 without SMTPUTF8, 555 5.5.4 for parameters not offered.

Source routes are parsed and ignored (RFC 5321 §3.6.1). All patterns are linear, and their input is bounded
by the line limits of the door.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

import attrs

from lorrainemail.addresses import Address, AddressError, normalise_domain, parse_address
from lorrainemail.envelope import Parameter
from lorrainemail.errors import PermanentError, Reply
from lorrainemail.grammar.smtp_wishes import PARAMETERS as WISHES
from lorrainemail.grammar.smtp_wishes import Wishes, parse_wishes

#: RFC 5321 §4.5.3.1.4: 512 octets with CRLF, the base that extensions add to.
COMMAND_LINE: Final = 512
#: What our extensions may add to MAIL: SIZE 26 (RFC 1870 §3), BODY 17 (RFC 6152 §2), SMTPUTF8 10 (RFC 6531
#: §3.4), AUTH 500 (RFC 4954 §3), RET and ENVID 115 (RFC 3461 §5); RCPT: NOTIFY and ORCPT 528. UTF-8 paths
#: are longer by the octets of their characters. HOLDUNTIL, MT-PRIORITY, BY and REQUIRETLS need 100 together.
#: One bound serves every command.
LONGEST_COMMAND: Final = 2048
#: RFC 4954 §4: the longest line of an AUTH exchange, without CRLF.
LONGEST_AUTH: Final = 12288
#: RFC 5321 §4.5.3.1.2.
LONGEST_GREETING: Final = 255
#: RFC 3461 §5.4 and §5.2 (values as sent).
LONGEST_ENVID: Final = 100
LONGEST_ORCPT: Final = 500

#: Parameters that this grammar understands; those of :mod:`lorrainemail.grammar.smtp_wishes` besides.
_MAIL_PARAMETERS: Final = frozenset({"SIZE", "BODY", "SMTPUTF8", "AUTH", "RET", "ENVID"})
MAIL_PARAMETERS: Final = _MAIL_PARAMETERS | WISHES
RCPT_PARAMETERS: Final = frozenset({"NOTIFY", "ORCPT"})

_PATH = re.compile(
    r"[ ]*<"
    r"(?:@(?:\[[^\]<>\s]*\]|[^\[\]<>\s:,\"]+)(?:,@(?:\[[^\]<>\s]*\]|[^\[\]<>\s:,\"]+))*:)?"
    r"((?:\"(?:[^\"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*\"|[^\"<>\x00-\x20\x7f])*)"
    r">"
)
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^=\x00-\x20\x7f]+))?\Z")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*\Z")
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
_UNICODE = re.compile(r"\\x\{([0-9A-F]{2,6})\}")
_SIZE = re.compile(r"[0-9]{1,20}\Z")
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9-]{1,32}\Z")
_BDAT = re.compile(rb"([0-9]{1,20})(?:[ \t]+(LAST))?\Z", re.IGNORECASE)
_VISIBLE = re.compile(rb"[!-~]+\Z")


@attrs.frozen(slots=True)
class MailCommand:
    """MAIL: reverse-path (None is ``<>``) and the meaning of its parameters.

    :ivar auth: the AUTH parameter decoded (RFC 4954 §5), "" when not given; never trusted here.
    :ivar wishes: what is asked of the message's way, None for nothing.
    """

    sender: Address | None
    parameters: tuple[Parameter, ...] = ()
    size: int = 0
    body: str = "7BIT"
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    auth: str = ""
    wishes: Wishes | None = None


@attrs.frozen(slots=True)
class RcptCommand:
    """RCPT: forward-path and the meaning of its parameters; ``text`` is the path as given."""

    address: Address
    text: str
    parameters: tuple[Parameter, ...] = ()
    notify: tuple[str, ...] | None = None
    orcpt: str = ""


def split_command(line: bytes) -> tuple[bytes, bytes]:
    """Verb in upper case and argument of a command line without its CRLF (RFC 5321 §4.1.1).

    Trailing white space is tolerated, as that section asks.
    """
    verb, _, argument = line.partition(b" ")
    return verb.rstrip(b"\t").upper(), argument.strip(b" \t")


def parse_mail(argument: bytes, offered: frozenset[str]) -> MailCommand:
    """The argument of MAIL (RFC 5321 §4.1.1.2).

    :param offered: the parameter keywords that the door announced, of :data:`MAIL_PARAMETERS`.
    """
    text = _decode(argument, "5.1.7")
    mailbox, rest = _path(text, "FROM:", "5.1.7")
    if not rest and argument.isascii():
        return MailCommand(_mailbox(mailbox, "5.1.7") if mailbox else None)
    parameters = _parameters(rest, offered)
    values = {parameter.keyword: parameter.value for parameter in parameters}
    smtputf8 = "SMTPUTF8" in values
    if not smtputf8 and not argument.isascii():
        _needs_smtputf8()
    return MailCommand(
        sender=_mailbox(mailbox, "5.1.7") if mailbox else None,
        parameters=parameters,
        size=_size(values["SIZE"]) if "SIZE" in values else 0,
        body=_one_of("BODY", values["BODY"], ("7BIT", "8BITMIME")) if "BODY" in values else "7BIT",
        smtputf8=smtputf8 and _without_value("SMTPUTF8", values["SMTPUTF8"]),
        ret=_one_of("RET", values["RET"], ("FULL", "HDRS")) if "RET" in values else "",
        envid=_envid(values["ENVID"]) if "ENVID" in values else "",
        auth=_auth(values["AUTH"]) if "AUTH" in values else "",
        wishes=None if _MAIL_PARAMETERS.issuperset(values) else parse_wishes(values),
    )


def parse_rcpt(argument: bytes, offered: frozenset[str], smtputf8: bool) -> RcptCommand:
    """The argument of RCPT (RFC 5321 §4.1.1.3).

    :param offered: the parameter keywords that the door announced, of :data:`RCPT_PARAMETERS`.
    :param smtputf8: the transaction began with SMTPUTF8.
    """
    text = _decode(argument, "5.1.3")
    if not smtputf8 and not argument.isascii():
        _needs_smtputf8()
    mailbox, rest = _path(text, "TO:", "5.1.3")
    # RFC 5321 §4.1.1.3: <postmaster> needs no domain, in any case.
    address = Address(mailbox, "") if mailbox.lower() == "postmaster" else _mailbox(mailbox, "5.1.3")
    if not rest:
        return RcptCommand(address, mailbox)
    parameters = _parameters(rest, offered)
    values = {parameter.keyword: parameter.value for parameter in parameters}
    return RcptCommand(
        address,
        mailbox,
        parameters,
        notify=_notify(values["NOTIFY"]) if "NOTIFY" in values else None,
        orcpt=_orcpt(values["ORCPT"], smtputf8) if "ORCPT" in values else "",
    )


def parse_greeting(argument: bytes) -> str:
    """The argument of EHLO and HELO: one visible word. Whether it is a good name is a matter of policy.

    RFC 5321 §4.1.1.1; RFC 6531 §3.7.1 keeps it ASCII.
    """
    if not argument:
        _syntax("5.5.4", "Syntax: EHLO name")
    if len(argument) > LONGEST_GREETING or not _VISIBLE.match(argument):
        _syntax("5.5.4", "Invalid name in the greeting")
    return argument.decode("ascii")


def is_well_formed_greeting(name: str) -> bool:
    """Whether it is a domain or an address literal (RFC 5321 §4.1.4)."""
    try:
        normalise_domain(name.removesuffix("."))
    except AddressError:
        return False
    return True


def parse_auth(argument: bytes) -> tuple[bytes, bytes | None]:
    """Mechanism and initial response (still base64; None where there is none) of AUTH (RFC 4954 §4)."""
    mechanism, space, initial = argument.partition(b" ")
    if not mechanism:
        _syntax("5.5.4", "Syntax: AUTH mechanism [initial-response]")
    return mechanism, initial.lstrip(b" ") if space else None


def parse_bdat(argument: bytes) -> tuple[int, bool]:
    """Count of octets, and whether they are the last, of BDAT (RFC 3030 §2)."""
    match = _BDAT.match(argument)
    if match is None:
        _syntax("5.5.4", "Syntax: BDAT count [LAST]")
    return int(match.group(1)), match.group(2) is not None


def decode_xtext(value: str) -> str:
    """Undo xtext (RFC 3461 §4).

    :raises ValueError: where it is none, or its octets are no UTF-8.
    """
    if not _XTEXT.match(value):
        raise ValueError("malformed xtext")
    if "+" not in value:
        return value
    return _HEXCHAR.sub(lambda match: chr(int(match.group(1), 16)), value).encode("latin-1").decode("utf-8")


def encode_xtext(text: str) -> str:
    """Text as xtext (RFC 3461 §4)."""
    return "".join(
        chr(octet) if 33 <= octet <= 126 and octet not in b"+=" else f"+{octet:02X}"
        for octet in text.encode("utf-8")
    )


def encode_orcpt(orcpt: str) -> str:
    """A decoded ORCPT as it goes on: xtext, or for the type utf-8 what RFC 6533 §3 makes of it."""
    kind, _, address = orcpt.partition(";")
    if kind.lower() != "utf-8":
        return f"{kind};{encode_xtext(address)}"
    encoded = "".join(
        char if "!" <= char <= "~" and char not in "\\+=" else f"\\x{{{ord(char):02X}}}" for char in address
    )
    return f"{kind};{encoded}"


def _syntax(enhanced: str, text: str) -> NoReturn:
    raise PermanentError(Reply(501, enhanced, text))


def _needs_smtputf8() -> NoReturn:
    # RFC 6531 §3.5.
    raise PermanentError(Reply(553, "5.6.7", "Addresses beyond ASCII need SMTPUTF8"))


def _decode(argument: bytes, enhanced: str) -> str:
    try:
        return argument.decode("utf-8")
    except UnicodeDecodeError:
        _syntax(enhanced, "Malformed UTF-8")


def _path(text: str, keyword: str, enhanced: str) -> tuple[str, str]:
    """Mailbox (route dropped) and the parameters after the path."""
    if text[: len(keyword)].upper() != keyword:
        command = "MAIL" if keyword == "FROM:" else "RCPT"
        _syntax("5.5.4", f"Syntax: {command} {keyword}<address> [parameters]")
    match = _PATH.match(text, len(keyword))
    if match is None:
        _syntax(enhanced, "Malformed path, an address in angle brackets is expected")
    rest = text[match.end() :]
    if rest and rest[0] != " ":
        _syntax("5.5.4", "Parameters must be separated by a space")
    return match.group(1), rest


def _mailbox(text: str, enhanced: str) -> Address:
    try:
        return parse_address(text)
    except AddressError as problem:
        _syntax(enhanced, f"Bad address: {problem}")


def _parameters(rest: str, offered: frozenset[str]) -> tuple[Parameter, ...]:
    found = []
    seen = set()
    for word in rest.split(" "):
        if not word:
            continue
        match = _PARAMETER.match(word)
        if match is None:
            _syntax("5.5.4", "Malformed parameter")
        keyword = match.group(1).upper()
        if keyword not in offered:
            raise PermanentError(Reply(555, "5.5.4", f"Parameter {keyword[:32]} is not recognized"))
        if keyword in seen:
            _syntax("5.5.4", f"Parameter {keyword} given twice")
        seen.add(keyword)
        found.append(Parameter(keyword, match.group(2)))
    return tuple(found)


def _without_value(keyword: str, value: str | None) -> bool:
    if value is not None:
        _syntax("5.5.4", f"{keyword} takes no value")
    return True


def _one_of(keyword: str, value: str | None, allowed: tuple[str, ...]) -> str:
    if value is None or value.upper() not in allowed:
        _syntax("5.5.4", f"{keyword} must be {' or '.join(allowed)}")
    return value.upper()


def _size(value: str | None) -> int:
    # RFC 1870 §3: 1 to 20 digits.
    if value is None or not _SIZE.match(value):
        _syntax("5.5.4", "SIZE must be a number")
    return int(value)


def _envid(value: str | None) -> str:
    if value is None or len(value) > LONGEST_ENVID:
        _syntax("5.5.4", "Malformed ENVID")
    return _xtext("ENVID", value)


def _auth(value: str | None) -> str:
    if value == "<>":
        return value
    return _xtext("AUTH", value)


def _xtext(keyword: str, value: str | None) -> str:
    try:
        decoded = decode_xtext(value or "")
    except ValueError:
        decoded = ""
    if not decoded or not decoded.isprintable():
        _syntax("5.5.4", f"Malformed {keyword}")
    return decoded


def _notify(value: str | None) -> tuple[str, ...]:
    # RFC 3461 §4.1: NEVER alone, or a list of the others.
    keywords = tuple((value or "").upper().split(","))
    known = {"NEVER"} if keywords[0] == "NEVER" else {"SUCCESS", "FAILURE", "DELAY"}
    if not known.issuperset(keywords) or len(set(keywords)) != len(keywords):
        _syntax("5.5.4", "NOTIFY must be NEVER or a list of SUCCESS, FAILURE, DELAY")
    return keywords


def _orcpt(value: str | None, smtputf8: bool) -> str:
    # RFC 3461 §4.2; RFC 6533 §3 for the type utf-8.
    kind, semicolon, encoded = (value or "").partition(";")
    if not semicolon or not _ADDRESS_TYPE.match(kind) or len(value or "") > LONGEST_ORCPT:
        _syntax("5.5.4", "Malformed ORCPT")
    if kind.lower() != "utf-8":
        return f"{kind};{_xtext('ORCPT', encoded)}"
    if not smtputf8 and not encoded.isascii():
        _needs_smtputf8()
    try:
        decoded = _UNICODE.sub(lambda match: chr(int(match.group(1), 16)), encoded)
        decoded.encode("utf-8")
    except (ValueError, OverflowError):
        _syntax("5.5.4", "Malformed ORCPT")
    if not decoded or not decoded.isprintable():
        _syntax("5.5.4", "Malformed ORCPT")
    return f"{kind};{decoded}"
