"""``check`` on resolvers whose DNSSEC verdict is believed."""

from __future__ import annotations

import pytest

from lorrainemail.config.load import load_text
from lorrainemail.config.review import review_settings

LINES = """hostname = "mail.x.org"
local_domains = ["x.org"]
[listen]
smtp = ['tcp:25']
[dns]
"""


def dangers(lines: str) -> list[str]:
    settings = load_text(LINES + lines, "l.toml", "/state")
    return [str(one.problem) for one in review_settings(settings) if "DANE" in str(one.problem)]


@pytest.mark.parametrize("resolver", ["127.0.0.1", "127.0.0.53:53", "::1", "[::1]:5353"])
def test_a_resolver_of_this_machine_may_be_trusted(resolver: str) -> None:
    assert dangers(f'resolvers = ["{resolver}"]\ntrusted = true\n') == []


@pytest.mark.parametrize("resolver", ["192.0.2.1", "192.0.2.1:53", "2001:db8::1", "[2001:db8::1]:53"])
def test_one_elsewhere_is_dangerous_where_it_is_trusted(resolver: str) -> None:
    (found,) = dangers(f'resolvers = ["127.0.0.1", "{resolver}"]\ntrusted = true\n')
    assert resolver in found and "l.toml:6" in found
    assert dangers(f'resolvers = ["{resolver}"]\n') == []
