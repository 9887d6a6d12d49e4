"""Tests on what is around the message: the server (RFC 5183), what scripts may use (RFC 5463), folders (RFC
5490, RFC 8579), messages that came before (RFC 7352), and what others thought of this one (RFC 5235).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from lorrainemail.grammar.sieve import Node
from lorrainemail.sieve.actions import folder_name
from lorrainemail.sieve.compiler import MATCH_TAGS, MATCH_TYPES, Compiler, Form, Given, Tagged
from lorrainemail.sieve.effects import WEEK, Remember
from lorrainemail.sieve.matching import NUMERIC
from lorrainemail.sieve.run import MAX_REMEMBERED, Action, Check, Run, RunError, Text

#: What a program needs that asks for annotations: this, and the folder's name.
METADATA: Final = "metadata:"
#: Seconds for which an id is remembered at most (RFC 7352 §3.2).
MAX_SECONDS: Final = 90 * 86400


def _environment(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5183 §4: an unknown item never matches."""
    name, keys = given.values
    matching = compiler.matching(node, given, keys)

    def environment(run: Run) -> bool:
        value = run.context.environment.get(run.text(name).lower())
        return value is not None and matching.any(run, (value,))

    return environment


def _ihave(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5463 §4: what is there may be used from here on."""
    names = [compiler.constant(node, name, "an extension's name") for name in given.values[0]]
    result = all(compiler.supports(name) for name in names)
    if result:
        compiler.enabled.update(names)
    return lambda run: result


def _error(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 5463 §5."""
    (message,) = given.values

    def error(run: Run) -> None:
        raise RunError(run.text(message)[:400])

    return error


def _mailboxexists(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5490 §3.1."""
    (names,) = given.values
    compiler.shared.needs.add("folders")

    def mailboxexists(run: Run) -> bool:
        return all(folder_name(run, name) in run.context.folders for name in run.texts(names))

    return mailboxexists


def _asks_metadata(compiler: Compiler, folder: Text | None) -> None:
    """Say before the run which folders' annotations it may ask for: "" is the account, "*" any folder."""
    if folder is None:
        compiler.shared.needs.add(METADATA)
    else:
        compiler.shared.needs.add(METADATA + (folder if isinstance(folder, str) and folder else "*"))


def _entries(run: Run, folder: Text | None) -> Mapping[str, str]:
    name = "" if folder is None else folder_name(run, run.text(folder))
    return run.context.metadata.get(name, {})


def _metadata(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5490 §3.2, and of the server §4.2: an annotation that is not there never matches."""
    *folders, entry, keys = given.values
    folder = folders[0] if folders else None
    _asks_metadata(compiler, folder)
    matching = compiler.matching(node, given, keys)

    def metadata(run: Run) -> bool:
        value = _entries(run, folder).get(run.text(entry).lower())
        if value is None:
            return matching.match.kind == "count" and matching.any(run, ())
        return matching.any(run, (value,))

    return metadata


def _metadataexists(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5490 §3.3, and of the server §4.3: all of them are there."""
    *folders, entries = given.values
    folder = folders[0] if folders else None
    _asks_metadata(compiler, folder)

    def metadataexists(run: Run) -> bool:
        known = _entries(run, folder)
        return all(entry.lower() in known for entry in run.texts(entries))

    return metadataexists


def _specialuse_exists(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 8579 §3: all these uses are there, or belong to the named folder."""
    uses = given.values[-1]
    folder = given.values[0] if len(given.values) == 2 else None
    compiler.shared.needs.add("folders")

    def specialuse_exists(run: Run) -> bool:
        wanted = {use.lower() for use in run.texts(uses)}
        if folder is not None:
            return wanted <= set(run.context.folders.get(folder_name(run, run.text(folder)), ()))
        return wanted <= {use for known in run.context.folders.values() for use in known}

    return specialuse_exists


def key_of(*parts: str) -> str:
    """A short key for what is remembered, of whatever it is made from."""
    digest = hashlib.sha256()
    for part in parts:
        octets = part.encode("utf-8", "surrogatepass")
        digest.update(len(octets).to_bytes(8, "big") + octets)
    return digest.hexdigest()[:32]


def _duplicate(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 7352 §3."""
    compiler.shared.needs.add("remembered")
    seconds = min(given.get("seconds", WEEK), MAX_SECONDS)
    handle = given.get("handle", "")

    def duplicate(run: Run) -> bool:
        if "uniqueid" in given:
            identity = run.text(given.get("uniqueid"))
        else:
            found = run.message.values(run.text(given.get("header", "message-id")))
            if not found:
                return False
            identity = found[0]
        key = key_of("duplicate", run.text(handle), identity)
        seen = run.context.remembered.get(key, 0.0) > run.context.now
        already = any(isinstance(effect, Remember) and effect.key == key for effect in run.effects)
        if not already and (not seen or "last" in given):
            if sum(isinstance(effect, Remember) for effect in run.effects) >= MAX_REMEMBERED:
                raise RunError("the script asks too many ids to be remembered")
            run.add(Remember(key, seconds))
        return seen or already

    return duplicate


def _spamtest(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5235 §2: 0 not judged, 1 surely none to 10 surely spam; :percent 0 to 100."""
    if "percent" in given:
        compiler.need(node, "spamtestplus", ":percent")
    matching = compiler.matching(node, given, [given.values[0]], default=NUMERIC)

    def spamtest(run: Run) -> bool:
        spam = run.context.spam
        if matching.match.kind == "count":
            return matching.any(run, () if spam is None else ("x",))
        if spam is None:
            return matching.any(run, ("0",))
        if "percent" in given:
            return matching.any(run, (str(spam),))
        return matching.any(run, (str(1 + round(spam * 9 / 100)),))

    return spamtest


def _virustest(compiler: Compiler, node: Node, given: Given) -> Check:
    """RFC 5235 §3: 0 not tested, 1 clean, 2 cured, 3 cured perhaps, 4 suspicious, 5 infected."""
    matching = compiler.matching(node, given, [given.values[0]], default=NUMERIC)
    return lambda run: matching.any(run, (str(run.context.virus),))


COMMANDS: Final = {"error": Form(_error, {}, (), ("string",), extension="ihave")}
TESTS: Final = {
    "environment": Form(
        _environment, MATCH_TAGS, (MATCH_TYPES,), ("string", "strings"), extension="environment"
    ),
    "ihave": Form(_ihave, {}, (), ("strings",), extension="ihave"),
    "mailboxexists": Form(_mailboxexists, {}, (), ("strings",), extension="mailbox"),
    "metadata": Form(
        _metadata,
        MATCH_TAGS,
        (MATCH_TYPES,),
        ("string", "string", "strings"),
        extension="mboxmetadata",
    ),
    "metadataexists": Form(_metadataexists, {}, (), ("string", "strings"), extension="mboxmetadata"),
    "servermetadata": Form(
        _metadata, MATCH_TAGS, (MATCH_TYPES,), ("string", "strings"), extension="servermetadata"
    ),
    "servermetadataexists": Form(_metadataexists, {}, (), ("strings",), extension="servermetadata"),
    "specialuse_exists": Form(_specialuse_exists, {}, (), ("string", "strings"), 1, extension="special-use"),
    "duplicate": Form(
        _duplicate,
        {
            "handle": Tagged("string"),
            "header": Tagged("string"),
            "uniqueid": Tagged("string"),
            "seconds": Tagged("number"),
            "last": Tagged(),
        },
        (frozenset({"header", "uniqueid"}),),
        extension="duplicate",
    ),
    "spamtest": Form(
        _spamtest,
        {**MATCH_TAGS, "percent": Tagged()},
        (MATCH_TYPES,),
        ("string",),
        extension="spamtest|spamtestplus",
    ),
    "virustest": Form(_virustest, MATCH_TAGS, (MATCH_TYPES,), ("string",), extension="virustest"),
}
