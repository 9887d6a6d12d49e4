"""The story that the lab plays: Carole writes to Bob, step by step, with the lines that really pass.

:func:`play` starts a :class:`~lorrainemail.lab.world.World` and walks the way of one message through it; each
step is one sentence, then the protocol's lines as they went over the wire (passwords masked). It answers
whether Bob read what Carole wrote. What goes on by itself between two steps (DNS, relay) is watched and told
when its turn has come. Every wait is bounded.
"""

from __future__ import annotations

import base64
import email.header
import glob
import os
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, TimeoutError

from lorrainemail.addresses import parse_address
from lorrainemail.errors import ConfigurationError
from lorrainemail.lab.talk import Talk, TalkFailed, connect
from lorrainemail.lab.words import Language, Voice
from lorrainemail.lab.world import World
from lorrainemail.net.tls import ClientTls
from lorrainemail.setup.failure import StartError
from lorrainemail.setup.places import directories
from lorrainemail.store.paths import home_path

#: Seconds for the servers' own work between two steps.
PATIENCE: Final = 10.0
#: Lines of one side's speech that are shown; the rest is counted.
MAX_LINES: Final = 30
#: Characters of a line that are shown.
MAX_WIDTH: Final = 140

#: Given one line to show.
Show = Callable[[str], None]


class StoryFailed(Exception):
    """A step did not come out; the text says what happened instead."""


async def play(reactor: Any, world: World, language: Language, show: Show) -> bool:
    """Play it, in a world that is not started yet (and that the caller stops).

    :returns: whether all went well; what did not is shown.
    """
    story = _Story(reactor, world, language, show)
    try:
        await story.play()
    except (StoryFailed, TalkFailed) as error:
        show("")
        show(story.voice("failed", step=story.step, why=error))
        return False
    return True


class _Story:
    def __init__(self, reactor: Any, world: World, language: Language, show: Show) -> None:
        self.voice = Voice(language)
        self.step = 0
        self._reactor = reactor
        self._world = world
        self._show = show
        self._began = reactor.seconds()
        self._asked: list[tuple[str, str]] = []
        self._passed: list[tuple[str, bytes]] = []
        self._arrived: Deferred[None] = Deferred()
        self._message = b""

    async def play(self) -> None:
        self._show(f"== {self.voice('title')} ==")
        self._start()
        await self._submit()
        await self._look_up_and_relay()
        await self._pop3()
        await self._imap()
        self._show("")
        self._show(self.voice("done", seconds=self._reactor.seconds() - self._began))

    def _tell(self, key: str, **facts: object) -> None:
        self.step += 1
        self._show("")
        self._show(f"{self.step}. {self.voice(key, **facts)}")

    def _line(self, who: str, text: str) -> None:
        if len(text) > MAX_WIDTH:
            text = text[:MAX_WIDTH] + "…"
        self._show(f"     {who}: {text}")

    # -- the steps -----------------------------------------------------------------------------------

    def _start(self) -> None:
        self._tell("start")
        world = self._world
        try:
            world.start()
        except (StartError, ConfigurationError, OSError) as error:
            raise StoryFailed(self.voice("no_start", why=error)) from None
        world.watch_dns(self._dns_was_asked)
        world.watch_smtp(world.bob, lambda who, data: self._passed.append((who, data)))
        server = world.bob.server
        assert server is not None
        server.store.watch(self._store_event)
        self._show("     " + self.voice("dns_started", port=world.dns_port))
        for house in world.houses:
            facts = {"hostname": house.hostname, "address": house.address, **house.ports}
            self._show("     " + self.voice("started", **facts))

    async def _submit(self) -> None:
        """RFC 6409, RFC 3207, RFC 4954."""
        self._tell("submit")
        carole, bob = self._world.carole, self._world.bob
        self._message = self._compose()
        talk = await self._connect("smtp", carole.address, carole.ports["submission"])
        await talk.hear("220")
        await talk.command("EHLO carole-laptop", "250")
        await talk.command("STARTTLS", "220")
        talk.start_tls(ClientTls(carole.authority).creator(carole.hostname, "verified"))
        await talk.command("EHLO carole-laptop", "250")
        login = f"\0{carole.account}\0{carole.password}".encode()
        secret = base64.b64encode(login).decode("ascii")
        await talk.command(f"AUTH PLAIN {secret}", "235", "AUTH PLAIN ********")
        await talk.command(f"MAIL FROM:<{carole.account}> BODY=8BITMIME", "250")
        await talk.command(f"RCPT TO:<{bob.account}>", "250")
        await talk.command("DATA", "354")
        # RFC 5321 §4.5.2: a line that begins with a dot gets another one.
        for line in self._message.decode("utf-8").removesuffix("\r\n").split("\r\n"):
            talk.say("." + line if line.startswith(".") else line)
        talk.say(".")
        answer = await talk.hear("250")
        await talk.command("QUIT", "221")
        talk.close()
        self._tell("queued", id=answer.rpartition(" ")[2])

    async def _look_up_and_relay(self) -> None:
        """RFC 5321 §5.1: the queue's runner, the resolver and the courier of Carole's server are at work."""
        try:
            await self._arrived.addTimeout(PATIENCE, self._reactor)
        except TimeoutError:
            self._tell("mx")
            self._show_asked("")
            self._show_passed()
            raise StoryFailed(self.voice("too_long", seconds=PATIENCE)) from None
        # The reply to the final dot goes out after the mailbox was told.
        await self._turns(10)
        self._tell("mx")
        self._show_asked(self._world.bob.domain)
        self._tell("relay")
        self._show_passed()
        self._show("     " + self.voice("checked"))
        self._show_asked(self._world.carole.domain)
        self._tell("delivered")
        for line in self._files():
            self._show(f"     {line}")

    async def _pop3(self) -> None:
        """RFC 1939."""
        self._tell("pop3")
        bob = self._world.bob
        talk = await self._connect("pop3", bob.address, bob.ports["pop3s"], bob.authority)
        await talk.hear("+OK")
        await talk.command(f"USER {bob.account}", "+OK")
        await talk.command(f"PASS {bob.password}", "+OK", "PASS ********")
        await talk.command("STAT", "+OK 1 ")
        await talk.command("UIDL", "+OK", multiline=True)
        answer = await talk.command("RETR 1", "+OK", multiline=True)
        await talk.command("QUIT", "+OK")
        talk.close()
        lines = answer.split("\r\n")[1:-1]
        text = "\r\n".join(line[1:] if line.startswith(".") else line for line in lines)
        self._compare("POP3", text + "\r\n")

    async def _imap(self) -> None:
        """RFC 3501."""
        self._tell("imap")
        bob = self._world.bob
        talk = await self._connect("imap", bob.address, bob.ports["imaps"], bob.authority)
        await talk.hear("* OK")
        await talk.tagged(f"LOGIN {bob.account} {bob.password}", f"LOGIN {bob.account} ********")
        await talk.tagged("SELECT INBOX")
        await talk.tagged("FETCH 1 (FLAGS ENVELOPE)")
        answer = await talk.tagged("FETCH 1 BODY[]")
        await talk.tagged("LOGOUT")
        talk.close()
        _, _, rest = answer.partition("{")
        size, _, octets = rest.partition("}\r\n")
        if not size.isdigit():
            raise TalkFailed(answer.split("\r\n")[0])
        self._compare("IMAP", octets.encode("utf-8")[: int(size)].decode("utf-8"))

    # -- what they are made of -----------------------------------------------------------------------

    async def _connect(self, kind: Any, host: str, port: int, authority: str = "") -> Talk:
        creator = None
        if authority:
            creator = ClientTls(authority).creator(self._world.bob.hostname, "verified")
        limiter = _Limiter(self._line)
        return await connect(self._reactor, kind, host, port, limiter, creator)

    def _compose(self) -> bytes:
        carole, bob = self._world.carole, self._world.bob
        subject = email.header.Header(self.voice("subject"), "utf-8").encode()
        if self.voice("subject").isascii():
            subject = self.voice("subject")
        head = (
            f"From: Carole <{carole.account}>\r\nTo: Bob <{bob.account}>\r\nSubject: {subject}\r\n"
            "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
            "Content-Transfer-Encoding: 8bit\r\n\r\n"
        )
        return (head + self.voice("body")).encode("utf-8")

    def _compare(self, protocol: str, read: str) -> None:
        """What the servers add stands before; Carole's own lines must end it, unchanged."""
        wanted = self._message.decode("utf-8")
        if not read.endswith(wanted):
            raise StoryFailed(self.voice("not_same", protocol=protocol))

    def _dns_was_asked(self, name: str, kind: str, answers: list[str]) -> None:
        self._asked.append((name, f"{kind} ? → {', '.join(answers) or '-'}"))

    def _store_event(self, event: str, account: str, folder: str) -> None:
        if event == "delivered" and not self._arrived.called:
            self._arrived.callback(None)

    def _show_asked(self, domain: str) -> None:
        """The questions about that domain and what is below it."""
        for name, rest in self._asked:
            if name.endswith(domain):
                self._show(f"     DNS: {name} {rest}")

    def _show_passed(self) -> None:
        limiter = _Limiter(self._line)
        said: dict[str, bytes] = {"C": b"", "S": b""}
        for who, data in self._passed:
            said[who] += data
            *lines, said[who] = said[who].split(b"\r\n")
            for line in lines:
                limiter(who, line.decode("utf-8", "replace"))

    def _files(self) -> list[str]:
        """Bob's messages, as a person finds them on disk."""
        bob = self._world.bob
        home = os.path.join(directories(bob.state).mail, home_path(parse_address(bob.account)))
        return sorted(glob.glob(os.path.join(glob.escape(home), "Maildir", "new", "*")))

    async def _turns(self, count: int) -> None:
        for _ in range(count):
            turn: Deferred[None] = Deferred()
            self._reactor.callLater(0, turn.callback, None)
            await turn


class _Limiter:
    """Shows lines; of a long speech of one side only the beginning and its end."""

    def __init__(self, line: Callable[[str, str], None]) -> None:
        self._line = line
        self._who = ""
        self._count = 0

    def __call__(self, who: str, text: str) -> None:
        if who != self._who:
            self._who, self._count = who, 0
        self._count += 1
        if self._count <= MAX_LINES:
            self._line(who, text)
        elif self._count == MAX_LINES + 1:
            self._line(who, "…")
