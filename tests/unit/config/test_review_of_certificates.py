"""What ``check`` says of certificates that will not come, or that nobody will believe."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from lorrainemail.config.model import Acme, Listen, Settings
from lorrainemail.config.review import review_settings

OURS = Settings(
    hostname="mail.ours.test",
    local_domains=("ours.test",),
    listen=Listen(smtp=("tcp:25",), https=("tcp:443",)),
)
FETCHED = Acme(directory="https://acme.test/dir")


def kinds(settings: Settings) -> list[str]:
    return [found.kind for found in review_settings(settings)]


def listen(**doors: tuple[str, ...]) -> Listen:
    return Listen(smtp=("tcp:25",), **doors)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"acme": FETCHED}, []),
        ({"acme": FETCHED, "listen": listen(http=("tcp:80",))}, []),
        ({"acme": FETCHED, "listen": listen()}, ["broken"]),
        ({"acme": attrs.evolve(FETCHED, challenges=("http-01", "dns-01"))}, ["broken"]),
        ({"acme": attrs.evolve(FETCHED, keys=())}, ["broken"]),
        ({"acme": attrs.evolve(FETCHED, trust="/nowhere/ca.pem")}, ["broken"]),
        ({}, ["useless"]),
        ({"listen": listen()}, []),
    ],
)
def test_certificates_that_cannot_come_or_convince_are_named(
    change: dict[str, Any], found: list[str]
) -> None:
    assert kinds(attrs.evolve(OURS, **change)) == found
