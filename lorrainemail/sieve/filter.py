"""The accounts' scripts at the final dot: from a message to what becomes of it.

Intake asks :meth:`SieveFilter.plan` for each mailbox. An account without an active script costs one look at
its directory. Compiled scripts are kept, bounded, until one of their files changes. A small message is
filtered at once; a large one, or a script that turns out to be slow, in a thread. A script that cannot be
read, compiled or finished loses nothing: the message is kept, and log and trace say why.

What scripts send (replies, notices) goes out after the message is safe; whom they answered is in the
account's home before the answer is sent (RFC 5230 §4.2: never twice rather than always once).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.addresses import Address
from lorrainemail.errors import MailError, Reply
from lorrainemail.grammar.sieve import SieveError
from lorrainemail.interfaces import (
    Action,
    Filing,
    Filtered,
    IContent,
    IFilter,
    IMailHome,
    Inject,
    IStore,
    LocalMailbox,
    Redirection,
    Transaction,
)
from lorrainemail.message.received import delivered_to_field, rfc5322_date
from lorrainemail.net.limits import TokenBuckets
from lorrainemail.ops.content import Content
from lorrainemail.ops.metrics import Counter
from lorrainemail.ops.reheaded import Reheaded
from lorrainemail.sieve.effects import (
    Context,
    Envelope,
    FileInto,
    Keep,
    Redirect,
    Reject,
    Remember,
    Result,
    Sent,
    Version,
)
from lorrainemail.sieve.language import compile_script
from lorrainemail.sieve.message import Message, field
from lorrainemail.sieve.run import Program, chain, run_program, try_program
from lorrainemail.sieve.storage import AFTER, BEFORE, Scripts, Stamp, StorageError, stamp_of
from lorrainemail.sieve.surroundings import METADATA, key_of
from lorrainemail.version import VERSION

_log = Logger("lorrainemail.sieve")
_RUNS = Counter("lorrainemail_sieve_runs", "Messages that went through an account's script", ["outcome"])

#: Addresses that notifications of one account's scripts, and what they send on after IMAP, go to in an hour.
LETTERS: Final = 100
#: Compiled scripts, and accounts whose replies are remembered in memory.
MAX_PROGRAMS: Final = 2000
MAX_LEDGERS: Final = 1000
#: Octets of a message that is filtered where others wait.
QUICK_SIZE: Final = 128 * 1024
#: Octets in which the end of a header is looked for at first, and at most.
FIRST_LOOK: Final = 64 * 1024
MAX_HEADER: Final = 1 << 20
#: Folders whose annotations one run may ask for.
MAX_ANNOTATED: Final = 500
#: Redirections along one chain of our own; the injector drops what goes further.
MAX_HOPS: Final = 9
#: Seconds until an account is told of the same fault of its script again.
TELL_AGAIN: Final = 86400.0
#: Characters of one line of a rejection, and its lines.
MAX_LINE: Final = 400
MAX_LINES: Final = 10

InThread = Callable[..., "Deferred[Any]"]


@attrs.frozen(slots=True)
class _Compiled:
    """A script as it was when it was compiled; ``error`` says why it is no program."""

    files: Mapping[str, Stamp]
    program: Program | None
    error: str = ""


@implementer(IFilter)
class SieveFilter:
    """All accounts' scripts.

    :param in_thread: calls a function in a thread: Deferred of its result.
    :param hostname: our name, in messages that scripts send.
    """

    def __init__(
        self, clock: IReactorTime, scripts: Scripts, store: IStore, in_thread: InThread, hostname: str
    ) -> None:
        self._clock = clock
        self._scripts = scripts
        self._store = store
        self._in_thread = in_thread
        self._hostname = hostname
        self.separators = "+"
        #: What scripts may know of the server (RFC 5183 §4.1).
        self.environment: Mapping[str, str] = {
            "domain": hostname.partition(".")[2] or hostname,
            "host": hostname,
            "name": "lorrainemail",
            "version": VERSION,
        }
        #: What scripts of each account may still send of their own, vacation apart.
        self.letters = TokenBuckets(clock, LETTERS / 3600, LETTERS)
        self._programs: OrderedDict[str, _Compiled] = OrderedDict()
        self._ledgers: OrderedDict[str, dict[str, float]] = OrderedDict()

    def plan(
        self, mailbox: LocalMailbox, transaction: Transaction, prefix: bytes, content: IContent
    ) -> None | Deferred[Filtered | None]:
        """What the account's script makes of the message; None where it has none."""
        if self._scripts.stamp(mailbox.account.address) is None and not self._scripts.has_common():
            return None
        return Deferred.fromCoroutine(self._plan(mailbox, transaction, prefix, content))

    async def _plan(
        self, mailbox: LocalMailbox, transaction: Transaction, prefix: bytes, content: IContent
    ) -> Filtered | None:
        id, key = transaction.envelope.id, mailbox.account.address.key
        try:
            compiled = await self._compiled(mailbox.account.address)
            if compiled.program is None and not compiled.error:
                return None
            if compiled.program is None:
                _RUNS.labels("broken").inc()
                return self._kept(mailbox, transaction, compiled.error)
            result = await self._result(compiled.program, mailbox, transaction, prefix, content)
            if result.error:
                _RUNS.labels("failed").inc()
                return self._kept(mailbox, transaction, result.error)
            _RUNS.labels("done").inc()
            return self._filtered(result, mailbox, transaction, prefix, content)
        except MailError as error:
            return self._kept(mailbox, transaction, f"{error.reply.text} {error.detail}")
        except Exception:
            _RUNS.labels("failed").inc()
            _log.failure("{id}: the script of {account} could not be run", id=id, account=key)
            return Filtered((Filing(),), error="internal error")

    def _kept(self, mailbox: LocalMailbox, transaction: Transaction, error: str) -> Filtered:
        """The implicit keep after a failure; the account is told, of each fault once a day."""
        id, key = transaction.envelope.id, mailbox.account.address.key
        _log.warn("{id}: kept, the script of {account} failed: {error}", id=id, account=key, error=error)

        def tell(inject: Inject) -> Deferred[None]:
            return Deferred.fromCoroutine(self._tell(mailbox, id, error))

        return Filtered((Filing(),), settle=tell, error=error)

    async def _tell(self, mailbox: LocalMailbox, id: str, error: str) -> None:
        """A message in the account's inbox that says what is wrong with its script."""
        now, address = self._clock.seconds(), mailbox.account.address
        ledger = await self.ledger(address)
        once = key_of("error", error)
        if ledger.get(once, 0.0) > now:
            return
        ledger[once] = now + TELL_AGAIN
        await self._in_thread(self._scripts.remember, address, dict(ledger), now)
        text = (
            "Your filter script failed. Messages for which it fails are kept in your inbox.\r\n\r\n"
            f"    {error}\r\n\r\nThe first of them has the id {id}.\r\n"
        )
        notice = b"".join(
            [
                field("From", f"Mail filter <postmaster@{self._hostname}>"),
                field("To", str(address)),
                field("Subject", "Your filter script failed"),
                f"Date: {rfc5322_date(now)}\r\nMessage-ID: <{id}.filter@{self._hostname}>\r\n".encode(
                    "ascii"
                ),
                b"Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n",
                b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n",
                text.encode("utf-8", "replace"),
            ]
        )
        await self._file_copy(mailbox, FileInto("INBOX"), Content(notice))

    # -- scripts -----------------------------------------------------------------------------------

    async def _compiled(self, address: Address) -> _Compiled:
        known = self._programs.get(address.key)
        if known is not None and all(stamp_of(path) == stamp for path, stamp in known.files.items()):
            self._programs.move_to_end(address.key)
            return known
        compiled: _Compiled = await self._in_thread(load, self._scripts, address)
        self._programs[address.key] = compiled
        self._programs.move_to_end(address.key)
        while len(self._programs) > MAX_PROGRAMS:
            self._programs.popitem(last=False)
        return compiled

    # -- running -----------------------------------------------------------------------------------

    async def _result(
        self,
        program: Program,
        mailbox: LocalMailbox,
        transaction: Transaction,
        prefix: bytes,
        content: IContent,
    ) -> Result:
        context = await self._context(program, mailbox, transaction)
        envelope = Envelope(transaction.envelope.sender, mailbox.address, transaction.session.account)
        header, body = header_of(content)

        def message() -> Message:
            return Message(
                prefix + header, len(prefix) + content.size, lambda: b"".join(content.chunks())[body:]
            )

        if content.size <= QUICK_SIZE and content.in_memory() is not None:
            result = try_program(program, message(), envelope, context)
            if result is not None:
                return result
        slow: Result = await self._in_thread(run_program, program, message(), envelope, context)
        return slow

    async def _context(self, program: Program, mailbox: LocalMailbox, transaction: Transaction) -> Context:
        account, session = mailbox.account, transaction.session
        folders: dict[str, tuple[str, ...]] = {}
        if "folders" in program.needs:
            for folder in await self._store.home(account).folders():
                if folder.selectable:
                    folders[folder.name] = tuple(use.lower() for use in folder.special_use)
        metadata = await metadata_of(program, self._store.home(account))
        remembered: Mapping[str, float] = {}
        if "remembered" in program.needs:
            remembered = dict(await self.ledger(account.address))
        verdicts = list(transaction.verdicts)
        for accepted in transaction.accepted:
            verdicts += accepted.verdicts
        return Context(
            now=self._clock.seconds(),
            addresses=frozenset({account.address.key, mailbox.address.key, *account.may_send_as}),
            separators=self.separators,
            folders=folders,
            metadata=metadata,
            remembered=remembered,
            environment={
                **self.environment,
                "location": "MDA",
                "phase": "during",
                "remote-host": session.reverse_name,
                "remote-ip": session.peer,
            },
            spam=100 if any(verdict.action is Action.JUNK for verdict in verdicts) else None,
            identity=transaction.envelope.id,
            hostname=self._hostname,
        )

    # -- what becomes of it ------------------------------------------------------------------------

    def _filtered(
        self,
        result: Result,
        mailbox: LocalMailbox,
        transaction: Transaction,
        prefix: bytes,
        content: IContent,
    ) -> Filtered:
        filings: list[Filing] = []
        redirections: list[Redirection] = []
        reply: Reply | None = None
        keys: dict[str, float] = {}
        sent: list[Sent] = []
        now = self._clock.seconds()
        for effect in result.effects:
            if isinstance(effect, Keep):
                filings.append(Filing(None, effect.flags, False, _version(effect.version, content)))
            elif isinstance(effect, FileInto):
                filings.append(
                    Filing(effect.folder, effect.flags, effect.create, _version(effect.version, content))
                )
            elif isinstance(effect, Redirect):
                if self._goes_round(mailbox, transaction, content):
                    _log.warn(
                        "{id}: not redirected again to {address}: it has been here before",
                        id=transaction.envelope.id,
                        address=str(effect.address),
                    )
                    continue
                whole = _version(effect.version, content) or Reheaded(content, 0, prefix)
                marked = Reheaded(whole, 0, delivered_to_field(mailbox.address))
                redirections.append(Redirection(transaction.envelope.sender, effect.address, marked))
            elif isinstance(effect, Reject):
                reply = reply_of(effect.text, transaction.envelope.smtputf8)
            elif isinstance(effect, Remember):
                keys[effect.key] = now + effect.seconds
            else:
                sent.append(effect)
        wanted_redirect = any(isinstance(effect, Redirect) for effect in result.effects)
        if wanted_redirect and not redirections and not filings:
            filings.append(Filing())
        settle = None
        if keys or sent:

            def settle(inject: Inject) -> Deferred[None]:
                return Deferred.fromCoroutine(self._settle(mailbox, transaction, keys, sent, inject))

        return Filtered(tuple(filings), tuple(redirections), reply, settle)

    def _goes_round(self, mailbox: LocalMailbox, transaction: Transaction, content: IContent) -> bool:
        """Whether this account (or too many of our own) sent it on before (RFC 9228)."""
        if transaction.envelope.hops >= MAX_HOPS:
            return True
        header, _ = header_of(content)
        own = {mailbox.address.key, mailbox.account.address.key}
        message = Message(header, content.size, lambda: b"")
        return any(value.strip().lower() in own for value in message.values("delivered-to"))

    async def _settle(
        self,
        mailbox: LocalMailbox,
        transaction: Transaction,
        keys: dict[str, float],
        sent: list[Sent],
        inject: Inject,
    ) -> None:
        """The message is safe: remember, then send."""
        address, now = mailbox.account.address, self._clock.seconds()
        ledger = await self.ledger(address)
        due = [one for one in sent if not one.once or ledger.get(one.once, 0.0) <= now]
        for one in due:
            if one.once:
                keys[one.once] = now + one.seconds
        if keys:
            await self.remember(address, keys)
        for one in due:
            if one.kind == "notify" and not self.letters.take(address.key, len(one.recipients)):
                _log.warn(
                    "the script of {account} notifies nobody any more: {count} an hour are enough",
                    account=address.key,
                    count=LETTERS,
                )
                continue
            reply = Content(one.message)
            await inject(
                one.sender, one.recipients, reply, transaction.envelope.hops + 1, transaction.envelope.id
            )
            if one.copy is not None:
                await self._file_copy(mailbox, one.copy, reply)

    async def _file_copy(self, mailbox: LocalMailbox, copy: FileInto, content: IContent) -> None:
        """A copy of what was sent (RFC 8580); one that cannot be filed is only logged."""
        home = self._store.home(mailbox.account)
        try:
            if copy.create:
                try:
                    await home.create(copy.folder)
                except MailError:
                    pass  # it is there, or opening it will tell
            folder = await home.open(copy.folder)
            try:
                await folder.append(content, copy.flags, None)
            finally:
                folder.close()
        except MailError as error:
            _log.warn(
                "a copy of what the script of {account} sent was not filed: {error}",
                account=mailbox.account.address.key,
                error=str(error),
            )

    async def remember(self, address: Address, keys: Mapping[str, float]) -> None:
        """Add to what the account's scripts remember, durably."""
        ledger = await self.ledger(address)
        ledger.update(keys)
        await self._in_thread(self._scripts.remember, address, dict(ledger), self._clock.seconds())

    async def ledger(self, address: Address) -> dict[str, float]:
        """What the account's scripts remember; one object for all, so that nobody is answered twice."""
        ledger = self._ledgers.get(address.key)
        if ledger is None:
            read = await self._in_thread(self._scripts.remembered, address)
            ledger = self._ledgers.setdefault(address.key, read)
            while len(self._ledgers) > MAX_LEDGERS:
                self._ledgers.popitem(last=False)
        else:
            self._ledgers.move_to_end(address.key)
        now = self._clock.seconds()
        for key in [key for key, until in ledger.items() if until <= now]:
            del ledger[key]
        return ledger


def load(scripts: Scripts, address: Address) -> _Compiled:
    """In a thread: the active script, compiled, between the operator's, with the stamps of all files as they
    were before."""
    marker = f"{scripts.directory(address)}/active"
    files: dict[str, Stamp] = {marker: stamp_of(marker)}
    name = scripts.active(address)

    def read(where: str, wanted: str) -> bytes | None:
        try:
            shared = where == "global"
            path = scripts.shared_path(wanted) if shared else scripts.path(address, wanted)
            files[path] = stamp_of(path)
            return scripts.read_shared(wanted) if shared else scripts.read(address, wanted)
        except (StorageError, OSError):
            return None

    def common(name: str) -> list[Program]:
        """A script of the operator's; one that is broken is left out, since no user could mend it."""
        octets = read("global", name)
        if octets is None:
            return []
        try:
            return [compile_script(octets, read, name=name)]
        except SieveError as error:
            _log.error(
                'The script "{name}" for all accounts is left out: {error}', name=name, error=str(error)
            )
            return []

    own: list[Program] = []
    fault = ""
    if name:
        octets = read("personal", name)
        try:
            if octets is None:
                fault = f'the active script "{name}" is not there'
            else:
                own = [compile_script(octets, read)]
        except SieveError as error:
            fault = f'the script "{name}": {error}'
    programs = [*common(BEFORE), *own, *common(AFTER)] if not fault else []
    return _Compiled(files, chain(programs) if programs else None, fault)


async def metadata_of(program: Program, home: IMailHome) -> Mapping[str, Mapping[str, str]]:
    """The annotations that a program may ask for (RFC 5490): those of few folders, or of all where it makes
    their names itself."""
    wanted = {need.removeprefix(METADATA) for need in program.needs if need.startswith(METADATA)}
    if not wanted:
        return {}
    there = [folder.name for folder in await home.folders()]
    if "*" not in wanted:
        there = [name for name in there if name in wanted or name.upper() in {one.upper() for one in wanted}]
    names = ["", *there] if "" in wanted else there
    return {
        name: {
            entry: value.decode("utf-8", "replace") for entry, value in (await home.metadata(name)).items()
        }
        for name in names[:MAX_ANNOTATED]
    }


def header_of(content: IContent) -> tuple[bytes, int]:
    """The header without its empty line, and where the body begins."""
    head = content.head(FIRST_LOOK)
    end = -2 if head.startswith(b"\r\n") else head.find(b"\r\n\r\n")
    if end == -1 and len(head) >= FIRST_LOOK:
        head = content.head(MAX_HEADER)
        end = head.find(b"\r\n\r\n")
    if end == -1:
        end = head.rfind(b"\r\n")
        return (head[: end + 2], end + 2) if end >= 0 else (head + b"\r\n", len(head))
    return head[: end + 2], end + 4


def _version(version: Version | None, content: IContent) -> IContent | None:
    """The message as the script had edited it."""
    if version is None:
        return None
    if version.body is not None:
        return Content(version.header + b"\r\n" + version.body)
    _, body = header_of(content)
    return Reheaded(content, body, version.header + b"\r\n")


def reply_of(text: str, smtputf8: bool) -> Reply:
    """A rejection's words as a reply (RFC 5429 §2.1.1): printable, in lines that fit."""
    lines = []
    for line in text.splitlines()[:MAX_LINES]:
        shown = "".join(c if c.isprintable() and (c.isascii() or smtputf8) else "?" for c in line)
        lines.append(shown[:MAX_LINE].rstrip())
    while lines and not lines[-1]:
        lines.pop()
    return Reply(550, "5.7.1", "\n".join(lines) or "The recipient refuses this message")
