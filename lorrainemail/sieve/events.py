"""Scripts that run because of what a user did to messages by IMAP (RFC 6785): stored, copied, moved, flagged.

The IMAP door tells :meth:`MailboxScripts.happened` after its answer is decided; whatever follows runs behind
it, one event after the other for an account. Which scripts: the operator's, by the rows of
``[mailbox_scripts]``, then the user's own that the annotation ``/shared/imapsieve/script`` of the folder, or
of the account, names. What a script does to messages runs no scripts (RFC 6785 §3).

Nothing here loses mail: a script that fails, a message that is gone or too large, a folder that cannot be had
leave the message as it is, and the log says why. Events are not kept over the end of the server. An account
without scripts, with no row configured, costs one look at its directory.

What a user puts into a folder he can write himself, so sending it on is a way to send: never with a signature
of ours, and outwards never in the name of another account of ours (what submission refuses, RFC 6409 §6.1)
and no more than :data:`LETTERS` in an hour.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.addresses import Address, AddressError, normalise_domain
from lorrainemail.errors import MailError, PermanentError, Reply, TemporaryError
from lorrainemail.grammar.sieve import SieveError
from lorrainemail.interfaces import (
    Account,
    IMailbox,
    IMailboxScripts,
    IMailHome,
    Inject,
    IStore,
    ITables,
    MailboxEvent,
    later,
)
from lorrainemail.message.addresslist import parse_addresses
from lorrainemail.ops.content import Content
from lorrainemail.ops.ids import new_id
from lorrainemail.ops.metrics import Counter
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
from lorrainemail.sieve.filter import LETTERS, SieveFilter, metadata_of
from lorrainemail.sieve.language import compile_script
from lorrainemail.sieve.message import Message
from lorrainemail.sieve.run import Program, chain, run_program
from lorrainemail.sieve.storage import Scripts, Stamp, StorageError, check_name, stamp_of

_log = Logger("lorrainemail.sieve")
_RUNS = Counter(
    "lorrainemail_sieve_event_runs", "Messages that went through a script after IMAP", ["outcome"]
)

#: RFC 6785 §2.2: the annotation that names a script.
ENTRY: Final = "/shared/imapsieve/script"
#: Messages of one account that wait for their scripts; scripts of accounts that run at once.
MAX_WAITING: Final = 20_000
AT_ONCE: Final = 2
#: Octets of the largest message that scripts see here; it is held in memory.
MAX_MESSAGE: Final = 32 << 20
#: Compiled sets of scripts.
MAX_PROGRAMS: Final = 500
#: Redirections along one chain of our own.
MAX_HOPS: Final = 9

Way = Literal["into", "out of", "flags"]

#: What ``Intake.redirect`` is, as far as it is used here.
Redirecting = Callable[[Address | None, Sequence[Address], Content, int, str], Deferred[str]]

#: Characters of From that are looked at, and addresses in it.
MAX_FROM: Final = 8192
MAX_AUTHORS: Final = 100

TOO_MANY: Final = Reply(451, "4.7.1", f"scripts of one account send {LETTERS} messages in an hour at most")
_ADDRESS: Final = re.compile(r"([^\s,;:<>()@\"\[\]]{0,64})@([^\s,;:<>()@\"\[\]]{1,255})")


@attrs.frozen(slots=True)
class Rule:
    """One of the operator's rows.

    :ivar folder: its name, or a special use ("\\Junk"), lower case; "*" for all.
    :ivar script: among those for all accounts.
    """

    way: Way
    folder: str
    script: str

    @classmethod
    def of(cls, rows: Mapping[str, str]) -> tuple[Rule, ...]:
        """Of the configuration: "into Junk" → script."""
        rules = []
        for key, script in rows.items():
            way: Way = (
                "out of" if key.startswith("out of ") else "into" if key.startswith("into ") else "flags"
            )
            rules.append(cls(way, key[len(way) + 1 :].strip().lower(), script))
        return tuple(rules)


@attrs.frozen(slots=True)
class _Compiled:
    files: Mapping[str, Stamp]
    program: Program | None


@implementer(IMailboxScripts)
class MailboxScripts:
    """See the module.

    :param redirect: sends on what is somebody else's; fails where it is refused.
    :param tables: the tables of now.
    :param filter: whose memory of vacation and duplicate is the account's.
    :param in_thread: calls a function in a thread: Deferred of its result.
    :ivar rules: the operator's; may be exchanged while running.
    """

    def __init__(
        self,
        scripts: Scripts,
        store: IStore,
        filter: SieveFilter,
        inject: Inject,
        redirect: Redirecting,
        tables: Callable[[], ITables],
        in_thread: Callable[..., Deferred[Any]],
        hostname: str,
        now: Callable[[], float],
        rules: tuple[Rule, ...] = (),
    ) -> None:
        self.rules = rules
        self._scripts = scripts
        self._store = store
        self._filter = filter
        self._inject = inject
        self._redirecting = redirect
        self._tables = tables
        self._in_thread = in_thread
        self._hostname = hostname
        self._now = now
        self._waiting: dict[str, deque[MailboxEvent]] = {}
        self._messages: dict[str, int] = {}
        self._programs: OrderedDict[tuple[str, tuple[tuple[str, str], ...]], _Compiled] = OrderedDict()
        self._few = DeferredSemaphore(AT_ONCE)

    def wants(self, account: Account) -> bool:
        """Whether any script might care about what happens in the account."""
        return bool(self.rules) or stamp_of(self._scripts.directory(account.address)) is not None

    def happened(self, event: MailboxEvent) -> None:
        """See :class:`~lorrainemail.interfaces.IMailboxScripts`."""
        key = event.account.address.key
        if not event.uids or not self.wants(event.account):
            return
        count = self._messages.get(key, 0) + len(event.uids)
        if count > MAX_WAITING:
            _log.warn("{account}: scripts do not run over {count} more messages: too many wait", account=key,
                      count=len(event.uids))  # fmt: skip
            return
        self._messages[key] = count
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(event)
            return
        self._waiting[key] = deque([event])
        Deferred.fromCoroutine(self._work(key))

    async def _work(self, key: str) -> None:
        """All that waits for one account."""
        waiting = self._waiting[key]
        while waiting:
            event = waiting.popleft()
            await self._few.acquire()
            try:
                await self._event(event)
            except MailError as error:
                _log.warn("{account}: scripts could not run: {error}", account=key, error=str(error))
            except Exception:
                _log.failure("{account}: scripts could not run", account=key)
            finally:
                self._few.release()
                self._messages[key] -= len(event.uids)
        del self._waiting[key]
        del self._messages[key]

    # -- which scripts -----------------------------------------------------------------------------

    async def _event(self, event: MailboxEvent) -> None:
        home = self._store.home(event.account)
        names = await self._names(event, home)
        if not names:
            return
        program = await self._program(event.account.address, names)
        if program is None:
            return
        mailbox = await home.open(event.folder)
        try:
            for uid in event.uids:
                await self._message(event, home, mailbox, uid, program)
        finally:
            mailbox.close()

    async def _names(self, event: MailboxEvent, home: IMailHome) -> tuple[tuple[str, str], ...]:
        """The scripts of an event, in order: ("global" | "personal", name)."""
        names: list[tuple[str, str]] = []
        if self.rules:
            called = await self._called(home, event.folder)
            left = await self._called(home, event.source) if event.source else frozenset()
            for rule in self.rules:
                where = left if rule.way == "out of" else called
                fits = (rule.way == "flags") is (event.cause == "FLAG")
                if fits and where and (rule.folder == "*" or rule.folder in where):
                    names.append(("global", rule.script))
        for folder in (event.folder, ""):
            value = (await home.metadata(folder)).get(ENTRY)
            if value:  # RFC 6785 §2.2: that of the mailbox, else that of the account
                name = value.decode("utf-8", "replace").strip()
                try:
                    check_name(name)
                except StorageError:
                    break
                names.append(("personal", name))
                break
        return tuple(dict.fromkeys(names))

    @staticmethod
    async def _called(home: IMailHome, name: str) -> frozenset[str]:
        """A folder's name and special uses, lower case."""
        for folder in await home.folders():
            if folder.name == name:
                return frozenset({name.lower(), *(use.lower() for use in folder.special_use)})
        return frozenset({name.lower()})

    async def _program(self, address: Address, names: tuple[tuple[str, str], ...]) -> Program | None:
        key = (address.key, names)
        known = self._programs.get(key)
        if known is None or any(stamp_of(path) != stamp for path, stamp in known.files.items()):
            known = await self._in_thread(self._load, address, names)
            self._programs[key] = known
            while len(self._programs) > MAX_PROGRAMS:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return known.program

    def _load(self, address: Address, names: Sequence[tuple[str, str]]) -> _Compiled:
        """In a thread: the scripts, one after the other; one that is broken is left out."""
        files: dict[str, Stamp] = {}
        library = self._scripts.library(address)

        def read(where: str, name: str) -> bytes | None:
            shared = where == "global"
            path = self._scripts.shared_path(name) if shared else self._scripts.path(address, name)
            files[path] = stamp_of(path)
            return library(where, name)

        programs = []
        for where, name in names:
            octets = read(where, name)
            try:
                if octets is None:
                    _log.warn("{account}: the script {name} is missing", account=address.key, name=name)
                else:
                    programs.append(compile_script(octets, read, name=name))
            except SieveError as error:
                _log.warn("{account}: the script {name} cannot be used: {error}", account=address.key,
                          name=name, error=str(error))  # fmt: skip
        return _Compiled(files, chain(programs) if programs else None)

    # -- one message -------------------------------------------------------------------------------

    async def _message(
        self, event: MailboxEvent, home: IMailHome, mailbox: IMailbox, uid: int, program: Program
    ) -> None:
        key = event.account.address.key
        octets, flags = await _octets(mailbox, uid), mailbox.flags(uid)
        if octets is None or flags is None:
            return  # gone meanwhile, or too large
        context = await self._context(event, home, program, uid, flags)
        address = event.account.address
        result: Result = await self._in_thread(
            run_program, program, Message.of(octets), Envelope(address, address, event.user), context
        )
        error = result.error
        if not error and any(
            isinstance(effect, Reject) or (isinstance(effect, Sent) and effect.kind == "vacation")
            for effect in result.effects
        ):
            error = "reject and vacation answer mail that arrives, not what a user does"  # RFC 6785 §3.6
        if error:
            _RUNS.labels("failed").inc()
            _log.warn("{account}: a script failed over a message in {folder}: {error}", account=key,
                      folder=event.folder, error=error)  # fmt: skip
            return
        _RUNS.labels("done").inc()
        await self._carry_out(event, home, mailbox, uid, flags, octets, result)

    async def _context(
        self, event: MailboxEvent, home: IMailHome, program: Program, uid: int, flags: frozenset[str]
    ) -> Context:
        folders: dict[str, tuple[str, ...]] = {}
        if "folders" in program.needs:
            for folder in await home.folders():
                if folder.selectable:
                    folders[folder.name] = tuple(use.lower() for use in folder.special_use)
        address = event.account.address
        remembered: Mapping[str, float] = {}
        if "remembered" in program.needs:
            remembered = dict(await self._filter.ledger(address))
        metadata = await metadata_of(program, home)
        changed = event.changed.get(uid, ())
        return Context(
            now=self._now(),
            addresses=frozenset({address.key, *event.account.may_send_as}),
            separators=self._filter.separators,
            folders=folders,
            metadata=metadata,
            remembered=remembered,
            environment={
                **self._filter.environment,
                "location": "MS",
                "phase": "post",
                # RFC 6785 §7.2.1 and following
                "imap.user": event.user,
                "imap.email": str(address),
                "imap.cause": event.cause,
                "imap.mailbox": event.folder,
                "imap.changedflags": " ".join(sorted(changed)),
                "vnd.lorrainemail.source": event.source,
            },
            flags=tuple(sorted(flags)),
            identity=new_id(),
            hostname=self._hostname,
        )

    async def _carry_out(
        self,
        event: MailboxEvent,
        home: IMailHome,
        mailbox: IMailbox,
        uid: int,
        flags: frozenset[str],
        octets: bytes,
        result: Result,
    ) -> None:
        address = event.account.address
        keys: dict[str, float] = {}
        kept = False
        for effect in result.effects:
            if isinstance(effect, Keep):
                kept = True
                await self._keep(mailbox, uid, flags, octets, effect)
            elif isinstance(effect, FileInto):
                if effect.folder.lower() == event.folder.lower():  # RFC 6785 §3.4
                    kept = True
                    await self._keep(mailbox, uid, flags, octets, Keep(effect.flags, effect.version))
                else:
                    await _file(home, effect, _edited(effect.version, octets))
            elif isinstance(effect, Redirect):
                await self._redirect(event.account, effect, octets)
            elif isinstance(effect, Sent):
                self._count(address, len(effect.recipients))
                await self._inject(effect.sender, effect.recipients, Content(effect.message), 1, "")
            elif isinstance(effect, Remember):
                keys[effect.key] = self._now() + effect.seconds
        if keys:
            await self._filter.remember(address, keys)
        if not kept:
            # RFC 6785 §3.3 and following: marked, for the user to expunge.
            await mailbox.change_flags([uid], "add", ["\\Deleted"])

    @staticmethod
    async def _keep(mailbox: IMailbox, uid: int, flags: frozenset[str], octets: bytes, effect: Keep) -> None:
        wanted = frozenset(effect.flags)
        if effect.version is not None:
            # A message never changes under its UID: the edited one is another.
            await mailbox.append(Content(_edited(effect.version, octets)), wanted, None)
            await mailbox.expunge([uid])
        elif wanted != flags:
            await mailbox.change_flags([uid], "set", wanted)

    def _count(self, address: Address, letters: int = 1) -> None:
        if not self._filter.letters.take(address.key, letters):
            raise TemporaryError(TOO_MANY)

    async def _redirect(self, account: Account, effect: Redirect, octets: bytes) -> None:
        address, message = account.address, Message.of(octets)
        if any(value.strip().lower() == effect.address.key for value in message.values("delivered-to")):
            _log.warn("{account}: not redirected to {address}: it came from there", account=address.key,
                      address=str(effect.address))  # fmt: skip
            return
        sent = _edited(effect.version, octets)
        if not await later(self._tables().is_local(effect.address.domain)):
            await self._require_own_name(account, Message.of(sent))
            self._count(address)
        await self._redirecting(address, [effect.address], Content(sent), 1, "")

    async def _require_own_name(self, account: Account, message: Message) -> None:
        """From names nobody of ours but the account: where a reader might find a name, none is left out."""
        tables = self._tables()
        for value in message.values("from"):
            named = [
                (
                    (one.mailbox or b"").decode("utf-8", "replace"),
                    (one.host or b"").decode("utf-8", "replace"),
                )
                for one in parse_addresses(value[:MAX_FROM].encode("utf-8", "replace"))
            ]
            for local, host in [*named, *_ADDRESS.findall(value)][:MAX_AUTHORS]:
                domain = _domain(host)
                if not domain:
                    continue
                ours = await later(tables.is_local(domain))
                author = Address(local, domain)
                if ours and not await later(tables.owns(account, author)):
                    raise _not_his(account, str(author))
            if len(value) > MAX_FROM or len(named) > MAX_AUTHORS // 2:
                raise _not_his(account, "so many")


def _domain(text: str) -> str:
    try:
        return normalise_domain(text)
    except AddressError:
        return ""


def _not_his(account: Account, whose: str) -> PermanentError:
    words = f"{account.address} does not send as {whose}, so what a script wants redirected stays"
    return PermanentError(Reply(550, "5.7.1", words))


async def _octets(mailbox: IMailbox, uid: int) -> bytes | None:
    """A message whole; None where it is gone, or too large for this."""
    try:
        message = await mailbox.message(uid)
    except MailError:
        return None
    try:
        if message.size > MAX_MESSAGE:
            _log.warn("scripts do not run over a message of {size} octets", size=message.size)
            return None
        return await message.read()
    finally:
        message.close()


def _edited(version: Version | None, octets: bytes) -> bytes:
    """The message as the script left it."""
    if version is None:
        return octets
    if version.body is not None:
        return version.header + b"\r\n" + version.body
    end = octets.find(b"\r\n\r\n")
    body = octets[end + 4 :] if end >= 0 else b""
    return version.header + b"\r\n" + body


async def _file(home: IMailHome, effect: FileInto, octets: bytes) -> None:
    if effect.create:
        try:
            await home.create(effect.folder)
        except MailError:
            pass  # it is there, or opening it will tell
    target = await home.open(effect.folder)
    try:
        await target.append(Content(octets), effect.flags, None)
    finally:
        target.close()
