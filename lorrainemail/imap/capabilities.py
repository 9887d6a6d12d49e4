"""What a session announces (RFC 3501 §6.1.1), and what a client may switch on (RFC 5161)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lorrainemail.grammar.imap import human

if TYPE_CHECKING:
    from lorrainemail.imap.server import ImapServer

_ALWAYS: Final = (b"IMAP4rev1", b"IMAP4rev2", b"LITERAL+", b"SASL-IR", b"ID", b"ENABLE", b"IDLE")
_AFTER_LOGIN: Final = (
    b"NAMESPACE", b"UIDPLUS", b"UNSELECT", b"MOVE", b"CHILDREN", b"SPECIAL-USE", b"CREATE-SPECIAL-USE",
    b"LIST-EXTENDED", b"LIST-STATUS", b"STATUS=SIZE", b"ESEARCH", b"SEARCHRES", b"CONDSTORE", b"QRESYNC",
    b"OBJECTID", b"SAVEDATE", b"WITHIN", b"PARTIAL",
    b"QUOTA", b"QUOTA=RES-STORAGE", b"QUOTA=RES-MESSAGE", b"BINARY", b"PREVIEW",
    b"MULTIAPPEND", b"CATENATE", b"REPLACE", b"UTF8=ACCEPT",
    b"UIDONLY", b"INPROGRESS",
    b"SORT", b"SORT=DISPLAY", b"ESORT", b"THREAD=ORDEREDSUBJECT", b"THREAD=REFERENCES",
    b"THREAD=REFS", b"SEARCH=FUZZY", b"MULTISEARCH", b"NOTIFY",
    b"METADATA", b"LIST-METADATA", b"ACL", b"RIGHTS=texk", b"LIST-MYRIGHTS", b"I18NLEVEL=1",
)  # fmt: skip

#: What ENABLE knows, each with what it brings along.
ENABLES: Final = {
    "CONDSTORE": frozenset({"CONDSTORE"}),
    "UIDONLY": frozenset({"UIDONLY"}),
    "IMAP4REV2": frozenset({"IMAP4rev2"}),
    "UTF8=ACCEPT": frozenset({"UTF8=ACCEPT"}),
    "QRESYNC": frozenset({"QRESYNC", "CONDSTORE"}),  # RFC 7162 §3.2.3
}


def capability(session: ImapServer) -> bytes:
    """CAPABILITY as it is true in this state."""
    words = list(_ALWAYS)
    if session.state == "unauth":
        if session.shared.tls is not None and not session.encrypted:
            words.append(b"STARTTLS")
        if session.may_log_in:
            mechanisms = session.shared.authenticator.mechanisms(session.channel)
            words += [b"AUTH=" + name.encode("ascii") for name in mechanisms]
        else:
            words.append(b"LOGINDISABLED")
    else:
        words += _AFTER_LOGIN
        if not session.compressed:
            words.append(b"COMPRESS=DEFLATE")
        words.append(b"APPENDLIMIT=%d" % session.shared.message_size)
        if session.shared.sieve_host:  # RFC 6785 §2.1
            words.append(b"IMAPSIEVE=sieve://%b" % human(session.shared.sieve_host))
    return b" ".join(words)
