"""``lorrainemail domain``: what an operator types, on a state directory without a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorrainemail.cli.main import main

CONFIGURATION = """
hostname = "mail.bricoleur.com"
local_domains = ["bricoleur.com"]
[listen]
smtp = ['tcp:25']
[dns]
addresses = ["192.0.2.7"]
"""


@pytest.fixture
def state(tmp_path: Path) -> str:
    (tmp_path / "lorrainemail.toml").write_text(CONFIGURATION)
    return str(tmp_path)


def test_a_domain_is_added_with_keys_once_and_its_records_are_told(
    state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["domain", "add", "Élan.example", "--state", state, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["added"] and first["domain"] == "xn--lan-9la.example"
    assert main(["domain", "add", "élan.example", "--state", state, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert not again["added"], "the second time nothing changes"
    assert again["records"] == first["records"], "the keys are those of the first time"
    assert {"mx", "spf", "dkim", "dmarc"} <= {record["topic"] for record in first["records"]}
    assert main(["domain", "list", "--state", state]) == 0
    assert "xn--lan-9la.example  2 DKIM keys" in capsys.readouterr().out


def test_a_domain_that_is_removed_keeps_its_keys_and_can_come_back(
    state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["domain", "add", "elan.example", "--state", state, "--json"])
    before = json.loads(capsys.readouterr().out)["records"]
    assert main(["domain", "remove", "elan.example", "--state", state]) == 0
    assert main(["domain", "list", "--state", state]) == 0
    assert "elan.example  " not in capsys.readouterr().out
    main(["domain", "add", "elan.example", "--state", state, "--json"])
    assert json.loads(capsys.readouterr().out)["records"] == before


def test_a_domain_of_the_configuration_is_not_removed_behind_its_back(
    state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["domain", "remove", "bricoleur.com", "--state", state]) == 1
    assert "lorrainemail.toml:3" in capsys.readouterr().err


def test_records_of_a_stranger_are_not_made_up(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["domain", "dns", "elsewhere.example", "--state", state]) == 1
    assert "is not a domain of this server" in capsys.readouterr().err


def test_without_a_server_the_way_to_one_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["domain", "list", "--state", str(tmp_path / "none")]) == 1
    assert "lorrainemail init DOMAIN" in capsys.readouterr().err


def test_the_ds_of_a_zone_is_told_and_a_roll_begins_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "lorrainemail.toml").write_text(CONFIGURATION + 'serve = ["bricoleur.com"]\n')
    words = ["domain", "ds", "bricoleur.com", "--state", str(state)]
    assert main([*words, "--json"]) == 0
    (first,) = json.loads(capsys.readouterr().out)["keys"]
    assert first["signs"] and first["parent_should_have_it"]
    assert main([*words, "--roll", "--json"]) == 0
    old, new = json.loads(capsys.readouterr().out)["keys"]
    assert old["ds"] == first["ds"] and old["signs"] and old["parent_should_have_it"]
    assert not new["signs"]
    assert main([*words, "--roll"]) == 1
    assert "on its way already" in capsys.readouterr().err
    assert main(["domain", "ds", "elsewhere.test", "--state", str(state)]) == 1
