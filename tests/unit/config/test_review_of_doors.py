"""What ``check`` says of doors that are open wider than meant."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from lorrainemail.config.model import Aliases, Listen, Settings
from lorrainemail.config.review import review_settings


@pytest.mark.parametrize(
    ("endpoint", "networks", "kinds"),
    [
        ("haproxy:tcp:25", (), ["broken"]),
        ("haproxy:tcp:25", ("192.0.2.1/32",), []),
        ("haproxy:unix:/run/smtp", (), []),
    ],
)
def test_a_door_for_proxies_of_whom_none_is_named_is_named(
    endpoint: str, networks: tuple[str, ...], kinds: list[str]
) -> None:
    settings = Settings(
        hostname="mail.ours.test",
        local_domains=("ours.test",),
        listen=Listen(smtp=(endpoint,)),
        proxy_networks=networks,
    )
    assert [found.kind for found in review_settings(settings)] == kinds


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [
        (r"tcp:24:interface=\:\:", "dangerous"),
        ("tcp:24", "dangerous"),
        ("tcp:25:interface=127.0.0.1", "broken"),
        ("tcp:24:interface=127.0.0.1", None),
        ("unix:/run/lorrainemail/lmtp:mode=660", None),
    ],
)
def test_an_lmtp_door_that_strangers_reach_is_named(endpoint: str, kind: str | None) -> None:
    settings = Settings(
        hostname="mail.ours.test",
        local_domains=("ours.test",),
        listen=Listen(smtp=("tcp:25",), lmtp=(endpoint,)),
    )
    assert [found.kind for found in review_settings(settings)] == ([] if kind is None else [kind])


@pytest.mark.parametrize("name", ["xclient_networks", "xforward_networks", "proxy_networks"])
@pytest.mark.parametrize(
    ("network", "told"), [("0.0.0.0/0", True), ("::/0", True), ("10.0.0.0/8", False), ("192.0.2.1/32", False)]
)
def test_who_believes_everybody_is_told(name: str, network: str, told: bool) -> None:
    listen, believed = Listen(smtp=("tcp:25",)), (network,)
    settings = Settings(hostname="mail.ours.test", local_domains=("ours.test",), listen=listen)
    findings = list(review_settings(attrs.evolve(settings, **{name: believed})))
    assert [found.kind for found in findings] == (["dangerous"] if told else [])
    assert all(name in found.problem.what for found in findings)


def test_directories_for_files_that_cannot_serve_are_told(tmp_path: Path) -> None:
    state, good = tmp_path / "state", tmp_path / "lists"
    good.mkdir()
    directories = ("/", str(state), str(tmp_path / "missing"), str(good))
    settings = Settings(
        hostname="mail.ours.test",
        local_domains=("ours.test",),
        state=str(state),
        listen=Listen(smtp=("tcp:25",)),
        aliases=Aliases(file_directories=directories),
    )
    assert [found.kind for found in review_settings(settings)] == ["broken"] * 3
