"""The worked example of docs/policy_checks.rst is a plugin that works."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from lorrainemail.envelope import Session
from lorrainemail.interfaces import Action, IPolicyPlugin, PolicyResources
from lorrainemail.ops.content import Content
from lorrainemail.policy.chain import build_chain

DOCS = Path(__file__).resolve().parents[3] / "docs" / "policy_checks.rst"


def test_the_example_puts_shouting_strangers_into_junk_and_refuses_them_for_bob(make: Any) -> None:
    text = DOCS.read_text(encoding="utf-8")
    blocks = [textwrap.dedent(one) for one in re.findall(r"::\n\n((?:(?:    .*)?\n)+)", text)]
    names: dict[str, Any] = {}
    exec(compile(blocks[0], str(DOCS), "exec"), names)
    plugin = names["shouting"]
    assert IPolicyPlugin.providedBy(plugin)
    actions = {"bob@bricoleur.com": {"shouting": "refuse"}}
    resources = PolicyResources(Clock(), None, "mail.bricoleur.com")
    chain = build_chain(["shouting"], resources, [plugin], actions=actions)
    loud, calm = (Content(f"Subject: {s}\r\n\r\nx".encode()) for s in ("BUY NOW", "Bonjour"))
    (verdict,) = chain.judge(make("data", "eve@x.org", content=loud))
    assert verdict.action is Action.JUNK
    (verdict,) = chain.judge(make("data", "bob@bricoleur.com", content=loud))
    assert verdict.action is Action.REFUSE and str(verdict.reply) == "550 5.7.1 Please do not shout"
    assert chain.judge(make("data", "eve@x.org", content=calm)) == ()
    ours = Session("s", "submission", account="bob@bricoleur.com")
    assert chain.judge(make("data", "eve@x.org", content=loud, session=ours)) == ()
