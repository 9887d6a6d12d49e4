"""What ``check`` says of zones that nobody can ask for, and of updates that nobody would take."""

from __future__ import annotations

import pytest

from lorrainemail.config.load import load_text
from lorrainemail.config.review import review_settings

HEAD = 'hostname = "mail.a.test"\nlocal_domains = ["a.test"]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[listen]\nsmtp = ['tcp:25']\n[dns]\nserve = ['a.test']\n", "the dns door is closed"),
        ("[listen]\nsmtp = ['tcp:25']\ndns = ['tcp:53']\n[dns]\nserve = ['a.test']\n", ""),
        ("[listen]\nsmtp = ['tcp:25']\n[dns_update]\nserver = '192.0.2.53'\n", "there is no key"),
        ("[listen]\nsmtp = ['tcp:25']\n[dns_update]\nkey = 'tsig.key'\n", "there is no server"),
        ("[listen]\nsmtp = ['tcp:25']\n[dns_update]\nserver = '192.0.2.53'\nkey = 'tsig.key'\n", ""),
    ],
)
def test_half_a_configuration_of_the_dns_is_named(text: str, words: str) -> None:
    settings = load_text(HEAD + text, "f", "/nowhere")
    found = [
        one.problem.what
        for one in review_settings(settings)
        if "dns door" in one.problem.what or "updates" in one.problem.what
    ]
    assert len(found) == bool(words)
    assert all(words in what for what in found)
