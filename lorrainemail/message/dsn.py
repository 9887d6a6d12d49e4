"""Delivery status notifications: one multipart/report from facts, as bytes ready to be sent.

Owns the form (RFC 3462, RFC 3464) and the words: in the language that the message says is its sender's,
English or French, else in both. Whether a notice may be sent at all, and to whom, is decided by its callers:
the queue's runner for what could not be delivered, and intake for what was refused after others were
accepted. They ask :func:`octets_wanted` how much of the message to read, and hand that to :func:`build`.

Pure, never fails for hostile facts: words of remote hosts lose their control characters and their excess,
non-ASCII ones are replaced. Everything but a returned 8-bit message is 7-bit.
"""

from __future__ import annotations

import quopri
import re
import secrets
from collections.abc import Sequence
from email.utils import formatdate
from typing import Final, Literal

import attrs

from lorrainemail.addresses import Address
from lorrainemail.envelope import Envelope, Recipient
from lorrainemail.errors import Reply
from lorrainemail.message.header import fields, unfold

Action = Literal["failed", "delayed", "delivered", "relayed", "expanded"]

#: A message is returned whole only up to this size (RFC 3461 §4.3 leaves it to us), else its header.
MAX_RETURNED_MESSAGE: Final = 1 << 20
#: What is returned of a header, in octets.
MAX_RETURNED_HEADER: Final = 64 << 10
#: What is quoted of a remote host's words, in characters.
MAX_DIAGNOSTIC: Final = 2000
#: Fates in one notice are described to the person up to this number; all are in the machine's part.
MAX_DESCRIBED: Final = 100

#: In the order of the texts below.
_LANGUAGES: Final = (b"en", b"fr")
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\Z")
_MESSAGE_ID = re.compile(rb"(?im)^message-id:[ \t\r\n]*(<[\x21-\x3b\x3d\x3f-\x7e]{3,900}>)")

# What a status means to a person: the last two numbers of the code, English and French.
_MEANINGS: Final = {
    "1.1": ("There is no such mailbox.", "Cette boîte aux lettres n'existe pas."),
    "1.2": (
        "There is no such domain, or it has no mail server.",
        "Ce domaine n'existe pas, ou n'a pas de serveur de courrier.",
    ),
    "1.3": ("The address is not well formed.", "L'adresse est mal formée."),
    "1.10": ("This domain does not take mail.", "Ce domaine ne reçoit pas de courrier."),
    "2.1": ("The mailbox is closed.", "Cette boîte aux lettres est fermée."),
    "2.2": ("The mailbox is full.", "La boîte aux lettres est pleine."),
    "2.3": ("The message is too large for the mailbox.", "Le message est trop volumineux pour cette boîte."),
    "3.4": ("The message is too large.", "Le message est trop volumineux."),
    "4.1": ("The other server does not answer.", "L'autre serveur ne répond pas."),
    "4.2": ("The connection was cut.", "La connexion a été coupée."),
    "4.3": ("The name servers do not answer.", "Les serveurs de noms ne répondent pas."),
    "4.6": ("The mail goes round in circles.", "Le courrier tourne en rond."),
    "4.7": ("It could not be delivered in time.", "Il n'a pas pu être remis à temps."),
    "6.3": ("The other server cannot take 8-bit mail.", "L'autre serveur n'accepte pas le courrier 8 bits."),
    "6.7": (
        "The other server cannot take international addresses.",
        "L'autre serveur n'accepte pas les adresses internationales.",
    ),
    "7.1": ("The other server refuses it.", "L'autre serveur le refuse."),
}

# What the sender can do, by the same numbers.
_WRITE_RIGHT: Final = (
    "Check the spelling of the address and send it again.",
    "Vérifiez l'orthographe de l'adresse et renvoyez-le.",
)
_SMALLER: Final = (
    "Send it in smaller parts, or a link in place of the attachments.",
    "Envoyez-le en plusieurs parties, ou un lien à la place des pièces jointes.",
)
_ANOTHER_WAY: Final = (
    "Try again in some days, or reach the recipient another way.",
    "Réessayez dans quelques jours, ou joignez le destinataire par un autre moyen.",
)
_ASK: Final = (
    "Ask the recipient, by another way, or the postmaster of his domain.",
    "Adressez-vous au destinataire par un autre moyen, ou au postmaster de son domaine.",
)
_ADVICE: Final = {
    "1.1": _WRITE_RIGHT,
    "1.2": _WRITE_RIGHT,
    "1.3": _WRITE_RIGHT,
    "1.10": _ASK,
    "2.1": _ASK,
    "2.2": _ANOTHER_WAY,
    "2.3": _SMALLER,
    "3.4": _SMALLER,
    "4.1": _ANOTHER_WAY,
    "4.2": _ANOTHER_WAY,
    "4.3": _ANOTHER_WAY,
    "4.7": _ANOTHER_WAY,
    "7.1": _ASK,
}

# Subject (ASCII), English, French.
_WORDS: Final[dict[Action, tuple[str, str, str]]] = {
    "failed": (
        "Mail not delivered (message non remis)",
        "Your message could not be delivered to the recipients below. It will not be tried again.",
        "Votre message n'a pas pu être remis aux destinataires ci-dessous. Il n'y aura plus d'autre essai.",
    ),
    "delayed": (
        "Mail delayed (message en attente)",
        "Your message has not reached the recipients below yet. You need not send it again: it is tried "
        "again by itself.",
        "Votre message n'est pas encore parvenu aux destinataires ci-dessous. Inutile de le renvoyer : "
        "de nouveaux essais ont lieu d'eux-mêmes.",
    ),
    "delivered": (
        "Mail delivered (message remis)",
        "Your message was delivered to the recipients below.",
        "Votre message a été remis aux destinataires ci-dessous.",
    ),
    "relayed": (
        "Mail relayed (message transmis)",
        "Your message was handed to a server that does not confirm deliveries.",
        "Votre message a été transmis à un serveur qui ne confirme pas les remises.",
    ),
    "expanded": (
        "Mail delivered to a list (message remis, liste)",
        "Your message was delivered to a list of recipients.",
        "Votre message a été remis à une liste de destinataires.",
    ),
}


@attrs.frozen(slots=True)
class Fate:
    """What became of one recipient.

    :ivar recipient: as in the envelope, with its ORCPT and the address the client named.
    :ivar action: RFC 3464 §2.3.3.
    :ivar reply: the remote host's reply, or ours.
    :ivar host: the next hop that said it; "" where the reply is ours.
    :ivar expired: given up after many tries; the status is then 4.4.7.
    :ivar concealed: the address is the private target of an alias: only the address that the client named is
        told, and nothing that the target's host said (RFC 3464 §4.2).
    :ivar last_attempt, retry_until: wall-clock seconds, 0 where unknown.
    """

    recipient: Recipient
    action: Action
    reply: Reply
    host: str = ""
    expired: bool = False
    concealed: bool = False
    last_attempt: float = 0.0
    retry_until: float = 0.0

    @property
    def status(self) -> str:
        """RFC 3463 code."""
        if self.expired:
            return "4.4.7"
        if _STATUS.match(self.reply.enhanced):
            return self.reply.enhanced
        return f"{min(max(self.reply.code // 100, 2), 5)}.0.0"


def octets_wanted(envelope: Envelope, size: int) -> int:
    """How much of the message, from its start, :func:`build` wants to see (RET, RFC 3461 §4.3)."""
    if _may_be_whole(envelope) and size <= MAX_RETURNED_MESSAGE:
        return size
    return min(size, MAX_RETURNED_HEADER)


def _may_be_whole(envelope: Envelope) -> bool:
    # RFC 8689 §5: what must travel under TLS alone is not sent back by whatever way there is.
    return envelope.ret.upper() == "FULL" and not envelope.asks("REQUIRETLS")


def build(
    hostname: str,
    message_id: str,
    envelope: Envelope,
    fates: Sequence[Fate],
    original: bytes,
    size: int,
    now: float,
) -> bytes:
    """A complete message in wire form, to be sent from ``<>`` to the envelope's sender.

    :param hostname: our name, the Reporting-MTA.
    :param message_id: unique, without brackets and domain.
    :param envelope: of the message that this is about; its sender must not be null.
    :param fates: at least one; the first one's action gives the notice its subject.
    :param original: the first octets of the message, as many as :func:`octets_wanted` said (fewer are fine).
    :param size: of the whole message in octets.
    :param now: wall-clock seconds.
    :raises ValueError: for a null reverse-path, which never gets a notice (RFC 5321 §4.5.5).
    """
    if envelope.sender is None:
        raise ValueError("a null reverse-path gets no notice")
    # RFC 3461 §4.3: RET=FULL is about failures.
    failed = any(fate.action == "failed" for fate in fates)
    whole = failed and _may_be_whole(envelope) and len(original) == size
    header, separator, _ = original.partition(b"\r\n\r\n")
    if separator:
        header += b"\r\n"
    else:  # cut: no half line
        header = header[: header.rfind(b"\r\n") + 2] if b"\r\n" in header else b""
    boundary = _boundary(original)
    language = _language(header)
    subject, text = _human(hostname, envelope, fates, language)
    lines = [
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: <{envelope.sender}>",
        f"Subject: {subject}",
        f"Date: {_date(now)}",
        f"Message-ID: <{message_id}@{hostname}>",
        *([] if language is None else [f"Content-Language: {_LANGUAGES[language].decode()}"]),
        *_references(header),
        "MIME-Version: 1.0",
        "Auto-Submitted: auto-replied",  # RFC 3834 §5.1
        "Content-Type: multipart/report; report-type=delivery-status;",  # RFC 3462 §1
        f'\tboundary="{boundary}"',
    ]
    if whole and not original.isascii():
        lines.append("Content-Transfer-Encoding: 8bit")
    dashes = b"--" + boundary.encode()
    out = [
        "\r\n".join(lines).encode("utf-8"),
        b"\r\n\r\n" + dashes + b"\r\nContent-Type: text/plain; charset=utf-8\r\n",
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n",
        quopri.encodestring(text.encode("utf-8")).replace(b"\n", b"\r\n"),
        b"\r\n" + dashes + b"\r\nContent-Type: message/delivery-status\r\n\r\n",
        _machine(hostname, envelope, fates),
        b"\r\n" + dashes + b"\r\n",
        *(_returned_whole(original) if whole else _returned_header(header)),
        b"\r\n" + dashes + b"--\r\n",
    ]
    return b"".join(out)


# -- the machine's part ------------------------------------------------------------------- RFC 3464 --


def _machine(hostname: str, envelope: Envelope, fates: Sequence[Fate]) -> bytes:
    groups = [[f"Reporting-MTA: dns; {hostname}"]]
    if envelope.envid:
        groups[0].append(f"Original-Envelope-Id: {_clean(envelope.envid)}")
    if envelope.received_at:
        groups[0].append(f"Arrival-Date: {_date(envelope.received_at)}")
    groups[0].append(f"X-Lorrainemail-Id: {_clean(envelope.id)}")
    for fate in fates:
        group = []
        if fate.recipient.orcpt:
            group.append(f"Original-Recipient: {_original(fate.recipient.orcpt)}")
        group.append(f"Final-Recipient: {_typed(_told(fate))}")
        group.append(f"Action: {fate.action}")
        group.append(f"Status: {fate.status}")
        if fate.concealed:
            group.append(f"Diagnostic-Code: x-lorrainemail; {fate.reply.code}")
        elif fate.host:
            group.append(f"Remote-MTA: dns; {_clean(fate.host)}")
            group.append(f"Diagnostic-Code: smtp; {_clean(str(fate.reply))}")
        else:
            group.append(f"Diagnostic-Code: x-lorrainemail; {_clean(str(fate.reply))}")
        if fate.last_attempt:
            group.append(f"Last-Attempt-Date: {_date(fate.last_attempt)}")
        if fate.retry_until and fate.action == "delayed":
            group.append(f"Will-Retry-Until: {_date(fate.retry_until)}")
        groups.append(group)
    text = "\r\n\r\n".join("\r\n".join(map(_fold, group)) for group in groups)
    return text.encode("ascii", "replace") + b"\r\n"


def _told(fate: Fate) -> str:
    """The address that the notice speaks of."""
    if fate.concealed and fate.recipient.original:
        return fate.recipient.original
    return str(fate.recipient.address)


def _typed(address: str) -> str:
    if address.isascii():
        return f"rfc822; {_clean(address)}"
    return f"utf-8; {_xtext(address)}"


def _original(orcpt: str) -> str:
    kind, semicolon, address = orcpt.partition(";")
    if not semicolon:
        kind, address = "rfc822", orcpt
    if kind.lower() == "utf-8" or not address.isascii():
        return f"utf-8; {_xtext(address)}"
    return f"{_clean(kind)}; {_clean(address)}"


def _xtext(address: str) -> str:
    """RFC 6533 §3 utf-8-addr-xtext: ASCII, everything else as ``\\x{HEX}``."""
    return "".join(
        char if "!" <= char <= "~" and char not in "\\+=" else f"\\x{{{ord(char):X}}}" for char in address
    )


def _clean(text: str) -> str:
    """One line of printable ASCII of bounded length."""
    printable = "".join(char if " " <= char <= "~" else (" " if char in "\r\n\t" else "?") for char in text)
    return printable[:MAX_DIAGNOSTIC].strip()


def _fold(line: str) -> str:
    """Fold at spaces (RFC 5322 §2.2.3); a word longer than a line may be is cut into pieces (§2.1.1)."""
    out: list[str] = []
    current = ""
    for word in line.split(" "):
        while len(word) > 900:
            out.append(f"{current} {word[:900]}" if current else word[:900])
            current, word = "", word[900:]
        if current and len(current) + 1 + len(word) > 78:
            out.append(current)
            current = word
        else:
            current = f"{current} {word}" if current else word
    out.append(current)
    return "\r\n ".join(out)


# -- the person's part --------------------------------------------------------------------------------


def _human(
    hostname: str, envelope: Envelope, fates: Sequence[Fate], language: Literal[0, 1] | None
) -> tuple[str, str]:
    """Subject and text: in the sender's language, or in both where it is not known."""
    subject, english, french = _WORDS[fates[0].action]
    texts = (
        f"This is the mail server {hostname}.\n\n{english}\n\n"
        + _described(fates, 0)
        + f"The message's id here was {envelope.id}; quote it to {_postmaster(hostname)} if you need help.\n",
        f"Ici le serveur de courrier {hostname}.\n\n{french}\n\n"
        + _described(fates, 1)
        + f"L'identifiant du message était {envelope.id} ; indiquez-le à {_postmaster(hostname)} "
        "si vous avez besoin d'aide.\n",
    )
    if language is None:
        return subject, "\n* * *\n\n".join(texts)
    words = subject.rstrip(")").partition(" (")
    return (words[2] if language else words[0]).capitalize(), texts[language]


def _language(header: bytes) -> Literal[0, 1] | None:
    """The sender's language, where his message says it: that which it is written in (RFC 3282 §2), else that
    which he wants to be written to in (§3)."""
    for wanted in (b"content-language", b"accept-language"):
        for field in fields(header):
            if field.name != wanted:
                continue
            tags = [tag.strip().lower() for tag in unfold(header[field.value : field.end]).split(b",")]
            tags.sort(key=_weight)
            for language, name in enumerate(_LANGUAGES):
                if tags and re.match(rb"%s(?:[-;]|\Z)" % name, tags[0]):
                    return 1 if language else 0
    return None


def _weight(tag: bytes) -> float:
    """The most wanted first; without a weight it is 1."""
    found = re.search(rb";[ \t]*q=(0(?:\.\d{0,3})?|1)", tag)
    return -float(found.group(1)) if found else -1.0


def _postmaster(hostname: str) -> Address:
    return Address("postmaster", hostname)


def _described(fates: Sequence[Fate], language: Literal[0, 1]) -> str:
    said = ("The server {host} said: {reply}", "Le serveur {host} a répondu : {reply}")[language]
    reason = ("Reason: {reply}", "Motif : {reply}")[language]
    until = ("It is tried until {date}.", "Des essais auront lieu jusqu'au {date}.")[language]
    expired = ("It was tried many times, in vain.", "De nombreux essais ont échoué.")[language]
    blocks = []
    for fate in fates[:MAX_DESCRIBED]:
        lines = [f"  {_told(fate)}"]
        if fate.expired:
            lines.append(f"    {expired}")
        meaning = _MEANINGS.get(fate.reply.enhanced.partition(".")[2])
        if meaning is not None and fate.action in ("failed", "delayed"):
            lines.append(f"    {meaning[language]}")
            advice = _ADVICE.get(fate.reply.enhanced.partition(".")[2])
            if advice is not None and fate.action == "failed":
                lines.append(f"    {advice[language]}")
        if fate.action in ("failed", "delayed") and not fate.concealed:
            words = said if fate.host else reason
            lines.append("    " + words.format(host=_clean(fate.host), reply=_clean(str(fate.reply))))
        if fate.action == "delayed" and fate.retry_until:
            lines.append("    " + until.format(date=_date(fate.retry_until)))
        blocks.append("\n".join(lines) + "\n\n")
    if len(fates) > MAX_DESCRIBED:
        blocks.append(f"  ... +{len(fates) - MAX_DESCRIBED}\n\n")
    return "".join(blocks)


# -- the returned part --------------------------------------------------------------------- RFC 3462 --


def _returned_whole(original: bytes) -> tuple[bytes, ...]:
    encoding = b"" if original.isascii() else b"Content-Transfer-Encoding: 8bit\r\n"
    return b"Content-Type: message/rfc822\r\n" + encoding + b"\r\n", original


def _returned_header(header: bytes) -> tuple[bytes, ...]:
    if header.isascii():
        return b"Content-Type: text/rfc822-headers\r\n\r\n", header
    # RFC 3462 §2: headers that are no legal 7-bit content may be encoded
    return (
        b"Content-Type: text/rfc822-headers; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n",
        quopri.encodestring(header.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n"),
    )


def _date(stamp: float) -> str:
    """RFC 5322 §3.3, in UTC as it is ("-0000" would say that the zone is not known)."""
    return formatdate(stamp).replace("-0000", "+0000")


def _references(header: bytes) -> list[str]:
    match = _MESSAGE_ID.search(header)
    return [f"In-Reply-To: {match.group(1).decode('ascii')}"] if match else []


def _boundary(original: bytes) -> str:
    while True:
        boundary = f"=_{secrets.token_hex(16)}"
        if boundary.encode() not in original:
            return boundary
