"""CAPABILITY, NOOP, LOGOUT, ID, STARTTLS, LOGIN, AUTHENTICATE, ENABLE and IDLE."""

from __future__ import annotations

from typing import Final

from lorrainemail.errors import PermanentError, TemporaryError
from lorrainemail.grammar.imap_commands import Command
from lorrainemail.imap import capabilities
from lorrainemail.imap.server import MAX_LOGIN_FAILURES, Bad, ImapServer, No
from lorrainemail.interfaces import IPrincipal
from lorrainemail.net.flow import Gone
from lorrainemail.sasl.mechanisms import CANCELLED, CREDENTIALS_INVALID, MAX_LINE

#: RFC 2177: the end of IDLE is one short word.
MAX_DONE: Final = 100

UNAVAILABLE: Final = b"[UNAVAILABLE] Login is not possible now, try again later"


async def capability(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.1.1."""
    session.send(b"* CAPABILITY %b\r\n" % capabilities.capability(session))
    return b"OK CAPABILITY completed"


async def noop(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.1.2; the updates that it is for follow every command. Clients poll with it: so look."""
    if session.view is not None:
        await session.view.mailbox.refresh()
    return b"OK NOOP completed"


async def logout(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.1.3."""
    session.close_view()
    session.state = "logout"
    session.send(b"* BYE Logging out\r\n")
    return b"OK LOGOUT completed"


async def identify(session: ImapServer, command: Command) -> bytes:
    """RFC 2971."""
    session.send(b'* ID ("name" "lorrainemail")\r\n')
    return b"OK ID completed"


async def starttls(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.2.1: the answer goes out in clear text, then everything is TLS."""
    if session.shared.tls is None or session.encrypted:
        raise Bad(b"STARTTLS is not offered here")
    session.send(b"%b OK Begin TLS negotiation now\r\n" % command.tag)
    session.start_tls()
    return b""


async def login(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.2.3."""
    user, password = command.arguments
    if not session.may_log_in:
        raise No(b"[PRIVACYREQUIRED] Start TLS first")
    session.know_tls()
    try:
        principal = await session.shared.authenticator.authenticate(user, password, session.facts, "LOGIN")
    except PermanentError:
        raise _wrong(session) from None
    except TemporaryError:
        raise No(UNAVAILABLE) from None
    return _logged_in(session, principal)


async def authenticate(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.2.2, with the initial response of RFC 4959."""
    mechanism, initial = command.arguments
    if not session.may_log_in:
        raise No(b"[PRIVACYREQUIRED] Start TLS first")
    session.know_tls()
    try:
        exchange = session.shared.authenticator.exchange(mechanism, initial, session.facts, session.channel)
        step = await exchange.start()
        while isinstance(step, bytes):
            session.send(b"+ %b\r\n" % step)
            step = await exchange.receive(await session.read_line(MAX_LINE))
    except PermanentError as failure:
        if failure.reply.code == CREDENTIALS_INVALID.code:
            raise _wrong(session) from None
        if failure.reply == CANCELLED:
            raise Bad(b"Authentication cancelled") from None
        if failure.reply.code == 504:
            raise No(b"[CANNOT] No such mechanism") from None
        raise Bad(b"Malformed authentication exchange") from None
    except TemporaryError:
        raise No(UNAVAILABLE) from None
    return _logged_in(session, step)


def _wrong(session: ImapServer) -> Exception:
    """What a failed login ends with."""
    session.login_failures += 1
    if session.login_failures >= MAX_LOGIN_FAILURES:
        session.bye(b"Too many failed logins")
        return Gone()
    return No(b"[AUTHENTICATIONFAILED] Wrong name or password")


def _logged_in(session: ImapServer, principal: IPrincipal) -> bytes:
    if session.state != "unauth":
        raise Gone()  # it closed while we looked
    session.logged_in(principal)
    return b"OK [CAPABILITY %b] Logged in" % capabilities.capability(session)


async def enable(session: ImapServer, command: Command) -> bytes:
    """RFC 5161 §3.1: what is not known, or on already, is passed over in silence."""
    before = set(session.enabled)
    for word in command.arguments[0]:
        session.enable(*capabilities.ENABLES.get(word, ()))
    fresh = sorted(session.enabled - before)
    session.send(b"* ENABLED%b\r\n" % b"".join(b" " + word.encode("ascii") for word in fresh))
    return b"OK ENABLE completed"


async def compress(session: ImapServer, command: Command) -> bytes:
    """RFC 4978: the answer goes out as it is, then everything is compressed."""
    if command.arguments[0] != b"DEFLATE":
        raise Bad(b"No such compression")
    if session.compressed:
        raise No(b"[COMPRESSIONACTIVE] It is compressed already")
    session.send(b"%b OK DEFLATE active\r\n" % command.tag)
    session.start_compression()
    return b""


async def idle(session: ImapServer, command: Command) -> bytes:
    """RFC 2177."""
    session.send(b"+ idling\r\n")
    session.write_out()
    session.idle(True)
    try:
        line = await session.read_line(MAX_DONE)
    finally:
        session.idle(False)
        await session.asides.told()
    if line.upper() != b"DONE":
        raise Bad(b"Expected DONE")
    return b"OK IDLE completed"
