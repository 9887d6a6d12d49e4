"""The numbers of a running server, as a monitoring system reads them."""

from __future__ import annotations

import re
import smtplib
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

PATIENCE = 20.0
SMTP, METRICS = 2525, 9187

MakeServer = Callable[..., Any]


def scrape(server: Any, path: str = "/metrics") -> dict[str, float]:
    with urllib.request.urlopen(f"http://{server.address}:{METRICS}{path}", timeout=PATIENCE) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = answer.read().decode()
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"([a-z0-9_]+(?:\{.*\})?) ([0-9.e+-]+)", line)
            assert match is not None, line
            found[match.group(1)] = float(match.group(2))
    return found


def test_a_scrape_tells_what_happened_and_how_it_stands(make_server: MakeServer) -> None:
    server = make_server(start=False, configuration='[relay]\n"*" = "[127.0.0.1]:1"\n')
    text = server.configuration.read_text()
    listen = f"[listen]\nmetrics = ['tcp:{METRICS}:interface={server.address}']\n"
    server.configuration.write_text(text.replace("[listen]\n", listen))
    (server.state / "aliases").write_text("away@ours.test: friend@else.test\n")
    server.start()
    before = scrape(server)
    with smtplib.SMTP(server.address, SMTP, timeout=PATIENCE) as client:
        client.sendmail("a@far.test", ["bob@ours.test"], b"Subject: x\r\n\r\nx\r\n")
        client.sendmail("a@far.test", ["away@ours.test"], b"Subject: x\r\n\r\nx\r\n")
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail("a@far.test", ["nobody@ours.test"], b"")
        now = scrape(server)
        assert now['lorrainemail_connections{door="smtp"}'] == 1
    grown = {name: value - before.get(name, 0.0) for name, value in now.items()}
    assert grown['lorrainemail_messages_taken_total{answer="250"}'] == 2
    assert grown["lorrainemail_messages_placed_total"] == 1
    assert grown['lorrainemail_smtp_connections_total{door="smtp",end="taken"}'] == 1
    assert now["lorrainemail_queue_items"] == 1 and now["lorrainemail_queue_oldest_seconds"] >= 0
    assert now["process_resident_memory_bytes"] > 1e6 and now["process_start_time_seconds"] > 1e9

    def tried() -> bool:
        name = 'lorrainemail_deliveries_total{courier="remote",outcome="deferred"}'
        return scrape(server).get(name, 0) == 1

    server.wait(tried, "an attempt in the numbers")
    for path in ("/", "/metrics/x"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            scrape(server, path)


def test_numbers_are_for_this_machine_alone(make_server: MakeServer) -> None:
    server = make_server(start=False)
    text = server.configuration.read_text()
    server.configuration.write_text(text.replace("[listen]\n", "[listen]\nmetrics = ['tcp:9187']\n"))
    checked = server.command("check")
    assert checked.returncode == 1 and "others than this machine" in checked.stdout
