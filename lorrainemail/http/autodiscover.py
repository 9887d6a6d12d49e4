"""Outlook's autodiscover: the XML of a POST (MS-OXDSCLI, "POX"), and the JSON that says where that is (v2).

Only the schema for mail by IMAP, POP3 and SMTP is spoken. Requests are read by expat with every DTD refused.
Pure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import escape

from lorrainemail.http.exchange import JSON, XML, Answer
from lorrainemail.http.offers import Offer

PATH: Final = "/autodiscover/autodiscover.xml"
JSON_PATH: Final = "/autodiscover/autodiscover.json"

_RESPONSE: Final = "http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006"
_OUTLOOK: Final = "http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a"
#: Depth and octets of text in a request; a real one has three levels and an address.
MAX_DEPTH: Final = 16
MAX_TEXT: Final = 4096

# MS-OXDSCLI §2.2.4.1.1.2: what an error says.
INVALID_REQUEST: Final = (600, "Invalid request")
OTHER_SCHEMA: Final = (601, "Provider is not available")
UNKNOWN_ADDRESS: Final = (500, "The e-mail address cannot be found")


class Unreadable(ValueError):
    """A request that is not what Outlook sends."""


def asked_for(body: bytes) -> tuple[str, str]:
    """The e-mail address of a request and the schema that it accepts.

    :raises Unreadable: for anything but a small plain XML document with both.
    """
    reader = _Reader()
    try:
        reader.parser.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise Unreadable(str(error)) from None
    address, schema = reader.found.get("emailaddress", ""), reader.found.get("acceptableresponseschema", "")
    if not address or not schema:
        raise Unreadable("no address or no schema")
    return address.strip(), schema.strip()


class _Reader:
    """Collects the text of the elements that matter."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._stack: list[str] = []
        self.parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text

    def _doctype(self, *_: object) -> None:
        raise ValueError("a DTD has no place here")

    def _start(self, name: str, _: object) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise ValueError("nested too deeply")
        self._stack.append(name.rpartition(":")[2].lower())

    def _end(self, _: str) -> None:
        self._stack.pop()

    def _text(self, text: str) -> None:
        name = self._stack[-1]
        known = self.found.get(name, "") + text
        if len(known) > MAX_TEXT:
            raise ValueError("too much text")
        if name in ("emailaddress", "acceptableresponseschema"):
            self.found[name] = known


def speaks(schema: str) -> bool:
    """Whether that is the schema that we answer in."""
    return schema == _OUTLOOK


def settings(address: str, offered: Sequence[Offer]) -> Answer:
    """The settings of an account, whether or not it exists."""
    parts = [_protocol(offer, address) for offer in offered if offer.tls == "at once"]
    have = {offer.protocol for offer in offered if offer.tls == "at once"}
    parts += [_protocol(offer, address) for offer in offered if offer.protocol not in have]
    text = (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<Autodiscover xmlns="{_RESPONSE}">\n'
        f'  <Response xmlns="{_OUTLOOK}">\n'
        f"    <User>\n      <DisplayName>{escape(address)}</DisplayName>\n    </User>\n"
        "    <Account>\n      <AccountType>email</AccountType>\n      <Action>settings</Action>\n"
        f"{''.join(parts)}"
        "    </Account>\n  </Response>\n</Autodiscover>\n"
    )
    return Answer(200, XML, text.encode())


def _protocol(offer: Offer, address: str) -> str:
    smtp = "        <UsePOPAuth>off</UsePOPAuth>\n        <SMTPLast>off</SMTPLast>\n"
    return (
        "      <Protocol>\n"
        f"        <Type>{offer.protocol.upper()}</Type>\n"
        f"        <Server>{escape(offer.host)}</Server>\n"
        f"        <Port>{offer.port}</Port>\n"
        "        <DomainRequired>off</DomainRequired>\n"
        f"        <LoginName>{escape(address)}</LoginName>\n"
        "        <SPA>off</SPA>\n"
        f"        <SSL>{'on' if offer.tls == 'at once' else 'off'}</SSL>\n"
        f"        <Encryption>{'SSL' if offer.tls == 'at once' else 'TLS'}</Encryption>\n"
        "        <AuthRequired>on</AuthRequired>\n"
        f"{smtp if offer.protocol == 'smtp' else ''}"
        "      </Protocol>\n"
    )


def error(what: tuple[int, str], seconds: float) -> Answer:
    """An error in the words of the protocol; ``seconds`` of the wall clock."""
    day = int(seconds) % 86400
    time = f"{day // 3600:02}:{day % 3600 // 60:02}:{day % 60:02}.0000000"
    text = (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<Autodiscover xmlns="{_RESPONSE}">\n  <Response>\n'
        f'    <Error Time="{time}" Id="0">\n'
        f"      <ErrorCode>{what[0]}</ErrorCode>\n      <Message>{escape(what[1])}</Message>\n"
        "      <DebugData />\n    </Error>\n  </Response>\n</Autodiscover>\n"
    )
    return Answer(200, XML, text.encode())


def where(protocol: str, host: str) -> Answer:
    """Version 2: where the XML is."""
    if protocol.lower() != "autodiscoverv1":
        body = {
            "ErrorCode": "InvalidProtocol",
            "ErrorMessage": "The given protocol value is invalid. Supported values are: AutodiscoverV1.",
        }
        return Answer(400, JSON, json.dumps(body).encode())
    return Answer(
        200, JSON, json.dumps({"Protocol": "AutodiscoverV1", "Url": f"https://{host}{PATH}"}).encode()
    )
