"""Loops over MIME parts and their text: foreverypart, break, extracttext (RFC 5703 §3, §7)."""

from __future__ import annotations

from typing import Final

from lorrainemail.grammar.sieve import Node
from lorrainemail.sieve.compiler import Compiler, Form, Given, Tagged
from lorrainemail.sieve.run import MAX_VALUE, Action, Break, Run
from lorrainemail.sieve.variables import MODIFIER_GROUPS, MODIFIER_TAGS, modifier, variable_name

#: Loops within loops (RFC 5703 §3.1 asks for five levels at least).
MAX_LOOPS: Final = 8


def _foreverypart(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 5703 §3.1: depth first; within a loop the parts below the current one."""
    name = compiler.constant(node, given.get("name", ""), "a loop's name")
    if len(compiler.loops) >= MAX_LOOPS:
        compiler.fail(node, f"loops are nested deeper than {MAX_LOOPS} levels")
    compiler.shared.needs.add("body")
    compiler.loops.append(name)
    steps = compiler.block(node.block or ())
    compiler.loops.pop()

    def foreverypart(run: Run) -> None:
        outer = run.part
        tops = (run.message.structure,) if outer is None else outer.parts
        try:
            for top in tops:
                for part in top.walk():
                    run.part = part
                    run.work.spend(50)
                    run.execute(steps)
        except Break as left:
            if left.name and left.name != name:
                raise
        finally:
            run.part = outer

    return foreverypart


def _break(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 5703 §3.2."""
    name = compiler.constant(node, given.get("name", ""), "a loop's name")
    if not compiler.loops:
        compiler.fail(node, '"break" outside of a loop')
    if name and name not in compiler.loops:
        compiler.fail(node, f'no loop around here has the name "{name[:60]}"')

    def leave(run: Run) -> None:
        raise Break(name)

    return leave


def _extracttext(compiler: Compiler, node: Node, given: Given) -> Action:
    """RFC 5703 §7."""
    compiler.need(node, "variables", '"extracttext"')
    name = variable_name(compiler, node, given.values[0])
    if not compiler.loops:
        compiler.fail(node, '"extracttext" outside of a loop over parts')
    first: int = min(given.get("first", MAX_VALUE), MAX_VALUE)
    change = modifier(given)

    def extracttext(run: Run) -> None:
        part = run.part
        text = ""
        if part is not None and part.type == b"text":
            run.work.spend((part.end - part.body) >> 3)
            text = run.message.text(part)
        run.set_variable(name, change(text[:first]))
        run.note(f"extracttext: {name} has {min(len(text), first)} characters")

    return extracttext


COMMANDS: Final = {
    "foreverypart": Form(_foreverypart, {"name": Tagged("string")}, block=True, extension="foreverypart"),
    "break": Form(_break, {"name": Tagged("string")}, extension="foreverypart"),
    "extracttext": Form(
        _extracttext,
        {**MODIFIER_TAGS, "first": Tagged("number")},
        MODIFIER_GROUPS,
        ("string",),
        extension="extracttext",
    ),
}
