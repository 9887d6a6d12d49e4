"""THREAD (RFC 5256): ORDEREDSUBJECT and REFERENCES, in slices, whatever the messages claim to refer to.

What a header says of other messages is not to be trusted: loops are not closed, chains of any length are
followed without recursion, and the search for a loop is bounded (:data:`MAX_CLIMB`).
"""

from __future__ import annotations

from typing import Any, Final

from lorrainemail.grammar.imap_commands import Command
from lorrainemail.imap.order import SLICE, sliced_order
from lorrainemail.imap.search import find, note_modseq
from lorrainemail.imap.server import ImapServer
from lorrainemail.interfaces import Column

#: Ancestors that are looked at for a loop; a link that would need more is not made.
MAX_CLIMB: Final = 1000
#: Steps (messages, ancestors climbed, children moved) of one turn.
TURN: Final = 2000

#: What of the index the algorithms look at, and with the number before it.
COLUMNS: Final[tuple[Column, ...]] = (
    "sent",
    "internal_date",
    "base_subject",
    "is_reply",
    "header_id",
    "in_reply_to",
    "references",
)
Facts = tuple[Any, ...]


class Node:
    """A message in its thread; without one (``number`` 0) where others only refer to it."""

    __slots__ = ("arrived", "children", "date", "number", "parent", "reply", "subject")

    def __init__(self) -> None:
        self.number = 0
        self.date = 0
        self.arrived = 0
        self.subject = ""
        self.reply = False
        self.parent: Node | None = None
        self.children = _NO_CHILDREN  # in order

    @property
    def key(self) -> int:
        """By date, then by number; a message that is missing stands where its first child does."""
        node = self
        while not node.number and node.children:
            node = next(iter(node.children))
        return (node.date << 32) + node.number

    def adopt(self, child: Node) -> None:
        if self.children is _NO_CHILDREN:
            self.children = {}
        self.children[child] = None
        child.parent = self

    def sort(self) -> None:
        """Children by date."""
        if len(self.children) > 1:
            self.children = dict.fromkeys(sorted(self.children, key=_key))


#: Of all that have none, which are most: a dictionary each would be twice the memory. Never written to.
_NO_CHILDREN: Final[dict[Node, None]] = {}


class Work:
    """What was done since others had their turn."""

    __slots__ = ("_session", "steps")

    def __init__(self, session: ImapServer) -> None:
        self._session = session
        self.steps = 0

    async def turn(self) -> None:
        """A whole turn's work was done."""
        self.steps = 0
        await self._session.breathe()

    async def rest(self) -> None:
        """Let others have theirs where it was enough."""
        if self.steps >= TURN:
            self.steps = 0
            await self._session.breathe()


async def thread(session: ImapServer, command: Command) -> bytes:
    """THREAD and UID THREAD."""
    algorithm, program = command.arguments
    view = session.selected()
    note_modseq(session, program)
    found = await find(session, view, program)
    facts: list[Facts] = []
    for start in range(0, len(found), SLICE):
        part = {view.uids[index]: index for index in found[start : start + SLICE]}
        rows = await view.mailbox.columns(tuple(part), COLUMNS)
        facts += rows if command.uid else [(part[row[0]] + 1, *row[1:]) for row in rows]
        await session.breathe()
    work = Work(session)
    if algorithm == "ORDEREDSUBJECT":
        await _send_by_subject(session, work, facts)
        return b"OK THREAD completed"
    if algorithm == "REFERENCES":
        roots = await by_references(session, work, facts)
    else:
        roots = await by_references_alone(session, work, facts)
    session.send(b"* THREAD")
    for count, root in enumerate(roots):
        line = printed(root)
        session.send(line if count else b" " + line)
        work.steps += len(line) // 8
        if work.steps >= TURN:
            await work.rest()
    session.send(b"\r\n")
    return b"OK THREAD completed"


def _message(node: Node, facts: Facts) -> None:
    node.number, sent, node.arrived, node.subject, node.reply, *_ = facts
    node.date = node.arrived if sent is None else sent


async def by_subject(session: ImapServer, work: Work, facts: list[Facts]) -> list[list[int]]:
    """ORDEREDSUBJECT: one thread a base subject, its messages by their dates; the threads by their first."""
    dates: list[int] = []
    for start in range(0, len(facts), TURN):
        dates += [arrived if sent is None else sent for _, sent, arrived, *_ in facts[start : start + TURN]]
        if start + TURN < len(facts):
            await session.breathe()
    threads: dict[str, list[int]] = {}
    for at in await sliced_order(session, dates):
        number, _, _, subject, *_ = facts[at]
        threads.setdefault(subject, []).append(number)
        work.steps += 1
        if work.steps >= TURN:
            await work.rest()
    return list(threads.values())


async def _send_by_subject(session: ImapServer, work: Work, facts: list[Facts]) -> None:
    """The answer of ORDEREDSUBJECT: below the first message of a thread stand all others side by side."""
    session.send(b"* THREAD")
    for count, numbers in enumerate(await by_subject(session, work, facts)):
        session.send(printed_subject(numbers) if count else b" " + printed_subject(numbers))
        work.steps += len(numbers)
        if work.steps >= TURN:
            await work.rest()
    session.send(b"\r\n")


def printed_subject(numbers: list[int]) -> bytes:
    """One thread of ORDEREDSUBJECT as RFC 5256 §5 ``thread-list``."""
    if len(numbers) < 3:
        return b"(%b)" % b" ".join([b"%d" % number for number in numbers])
    return b"(%d %b)" % (numbers[0], b"".join([b"(%d)" % number for number in numbers[1:]]))


# -- REFERENCES ------------------------------------------------------------------- RFC 5256 §3 --------


async def by_references(session: ImapServer, work: Work, facts: list[Facts]) -> list[Node]:
    """REFERENCES: by what messages refer to, then roots of one subject together."""
    nodes = await _linked(work, facts)
    roots = await _pruned(work, nodes)
    for node in nodes:
        node.sort()
        work.steps += len(node.children) + 1
        if work.steps >= TURN:
            await work.rest()
    roots = await _join_subjects(work, await _in_order(session, work, roots))
    for root in roots:
        root.sort()
        work.steps += len(root.children)
        if work.steps >= TURN:
            await work.rest()
    return await _in_order(session, work, roots)


def _key(node: Node) -> int:
    return node.key


async def _in_order(session: ImapServer, work: Work, nodes: list[Node]) -> list[Node]:
    keys: list[int] = []
    for start in range(0, len(nodes), TURN):
        keys += [node.key for node in nodes[start : start + TURN]]
        if start + TURN < len(nodes):
            await work.turn()
    return [nodes[at] for at in await sliced_order(session, keys)]


async def by_references_alone(session: ImapServer, work: Work, facts: list[Facts]) -> list[Node]:
    """REFS: by what messages refer to and nothing else; the thread that was last added to comes last.

    As other servers announce it; its draft (IMAP INTHREAD) never became an RFC.
    """
    nodes = await _linked(work, facts)
    roots = await _pruned(work, nodes)
    for node in nodes:
        node.sort()
        work.steps += len(node.children) + 1
        if work.steps >= TURN:
            await work.rest()
    keys: list[int] = []
    for root in roots:
        latest = 0
        todo = [root]
        while todo:
            node = todo.pop()
            latest = max(latest, node.arrived)
            todo.extend(node.children)
            work.steps += 1
        keys.append((latest << 32) + (root.key & 0xFFFFFFFF))
        if work.steps >= TURN:
            await work.rest()
    return [roots[at] for at in await sliced_order(session, keys)]


async def _linked(work: Work, facts: list[Facts]) -> list[Node]:
    """Steps 1 and 2: all messages, and those that they refer to, each below its parent."""
    table: dict[bytes, Node] = {}
    nodes: list[Node] = []
    for one in facts:
        own, in_reply_to, references = one[5:]
        if b'"' in own:
            own = _plain(own)
        node = table.get(own) if own else None
        if node is None or node.number:  # new, or the id was given twice: then this one has none
            node = Node()
            nodes.append(node)
            if own and own not in table:
                table[own] = node
        _message(node, one)
        above: Node | None = None
        for reference in references.split() or in_reply_to.split():
            if b'"' in reference:
                reference = _plain(reference)
            other = table.get(reference)
            if other is None:
                other = table[reference] = Node()
                nodes.append(other)
            if above is not None and other.parent is None and _may_hang(other, above, work):
                above.adopt(other)
            above = other
            work.steps += 1
        if above is not None and above is not node.parent and _may_hang(node, above, work):
            if node.parent is not None:
                del node.parent.children[node]
            above.adopt(node)
        work.steps += 1
        if work.steps >= TURN:
            await work.rest()
    return nodes


def _plain(header_id: bytes) -> bytes:
    """RFC 5256 §2.2: quoting makes no difference."""
    return header_id.replace(b'"', b"").replace(b"\\", b"")


def _may_hang(child: Node, parent: Node, work: Work) -> bool:
    """Whether no loop would come of it."""
    if child is parent:
        return False
    if not child.children:
        return True
    climbed = 0
    above = parent.parent
    while above is not None and above is not child and climbed < MAX_CLIMB:
        above = above.parent
        climbed += 1
    work.steps += climbed
    return above is None


async def _pruned(work: Work, nodes: list[Node]) -> list[Node]:
    """Step 3: messages that are missing go, their children move up; at the top only an only child does."""
    gone: set[Node] = set()
    for node in nodes:
        above = node.parent
        work.steps += 1
        if work.steps >= TURN:
            await work.rest()
        if node.number or above is None:
            continue
        del above.children[node]
        for child in node.children:
            above.adopt(child)
        work.steps += len(node.children)
        gone.add(node)
    for node in nodes:  # now only those at the top are missing
        work.steps += 1
        if work.steps >= TURN:
            await work.rest()
        if node.number or node in gone or len(node.children) > 1:
            continue
        for child in node.children:
            child.parent = None
        gone.add(node)
    return [node for node in nodes if node.parent is None and node not in gone]


async def _join_subjects(work: Work, roots: list[Node]) -> list[Node]:
    """Step 5: roots of one subject become one thread."""
    table: dict[str, Node] = {}
    for root in roots:
        subject = _subject(root)
        known = table.get(subject)
        if known is None or (known.number and (not root.number or (known.reply and not root.reply))):
            table[subject] = root
        work.steps += 1
        if work.steps >= TURN:
            await work.rest()
    gone: set[Node] = set()
    for root in tuple(roots):
        subject = _subject(root)
        other = table[subject]
        if not subject or other is root:
            continue
        if not other.number:
            if root.number:
                other.adopt(root)
            else:
                for child in root.children:
                    other.adopt(child)
                work.steps += len(root.children)
                gone.add(root)
        elif root.reply and not other.reply:
            other.adopt(root)
        else:
            both = Node()
            both.adopt(other)
            both.adopt(root)
            table[subject] = both
            roots.append(both)
        work.steps += 1
        if work.steps >= TURN:
            await work.rest()
    return [root for root in roots if root.parent is None and root not in gone]


def _subject(root: Node) -> str:
    """The subject of a thread: of its first message."""
    while not root.number and root.children:
        root = next(iter(root.children))
    return root.subject


def printed(root: Node) -> bytes:
    """One thread as RFC 5256 §5 ``thread-list``."""
    out: list[bytes] = []
    todo: list[Node | None] = [root]
    while todo:
        node = todo.pop()
        if node is None:
            out.append(b")")
            continue
        out.append(b"(")
        begun = False
        while True:
            if node.number:
                out.append(b" %d" % node.number if begun else b"%d" % node.number)
                begun = True
            if len(node.children) != 1:
                break
            (node,) = node.children
        todo.append(None)
        if node.children:
            if begun:
                out.append(b" ")
            todo.extend(reversed(tuple(node.children)))
    return b"".join(out)
