"""XCLIENT (Postfix's XCLIENT_README): a listed server in front says who the client is.

Pure: attributes in, session facts out. Whose word is taken is the door's setting; the command is a method of
:class:`~lorrainemail.smtp.server.SmtpServer`, which begins anew after it as if that client had just come.
LOGIN is neither announced nor taken: who sends here proves it here.
"""

from __future__ import annotations

import ipaddress
from typing import Final, NoReturn

import attrs

from lorrainemail.envelope import Session
from lorrainemail.errors import PermanentError, Reply
from lorrainemail.grammar.smtp import decode_xtext
from lorrainemail.net.peers import canonical

#: What may be said. HELO and PROTO change nothing: the client's own greeting follows.
ATTRIBUTES: Final = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "DESTADDR", "DESTPORT")
_UNKNOWN: Final = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})


def renamed(session: Session, argument: bytes) -> Session:
    """The session as the attributes tell it: nobody logged in, nobody greeted.

    :raises PermanentError: 501 for what is malformed.
    """
    said = _attributes(argument)
    peer, port, name, local = session.peer, session.peer_port, "", session.local
    if "ADDR" in said:
        peer, port = _address(said["ADDR"]), 0
    if "PORT" in said:
        port = _port(said["PORT"])
    if "DESTPORT" in said:
        _port(said["DESTPORT"])
    if said.get("NAME", "[UNAVAILABLE]").upper() not in _UNKNOWN:
        name = said["NAME"].lower()
    if "DESTADDR" in said:
        local = _address(said["DESTADDR"])
    return attrs.evolve(
        session,
        peer=peer,
        peer_port=port,
        local=local,
        helo="",
        esmtp=False,
        account="",
        mechanism="",
        reverse_name=name,
    )


def _attributes(argument: bytes) -> dict[str, str]:
    said: dict[str, str] = {}
    for word in argument.split():
        keyword, equals, value = word.decode("ascii", "replace").partition("=")
        keyword = keyword.upper()
        if not equals or keyword not in ATTRIBUTES or keyword in said:
            _malformed(f"Syntax: XCLIENT attribute=value, with the attributes {' '.join(ATTRIBUTES)}")
        try:
            said[keyword] = decode_xtext(value)
        except ValueError:
            _malformed(f"Malformed {keyword}")
        if not said[keyword] or not said[keyword].isascii() or not said[keyword].isprintable():
            _malformed(f"Malformed {keyword}")
    if not said:
        _malformed("Syntax: XCLIENT attribute=value")
    return said


def _address(value: str) -> str:
    """The client's address; what is not known is no address that anybody trusts."""
    if value.upper() in _UNKNOWN:
        # RFC 5737 §3: an address of nobody's, so that a client without one is a stranger.
        return "192.0.2.0"
    text = value[5:] if value[:5].upper() == "IPV6:" else value
    try:
        ipaddress.ip_address(text)
    except ValueError:
        _malformed("Malformed address")
    return canonical(text)


def _port(value: str) -> int:
    if value.upper() in _UNKNOWN:
        return 0
    if not value.isdigit() or len(value) > 5 or int(value) > 65535:
        _malformed("Malformed port")
    return int(value)


def _malformed(words: str) -> NoReturn:
    raise PermanentError(Reply(501, "5.5.4", words))
