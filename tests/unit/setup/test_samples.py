"""What a packager takes from ``etc/`` works as it stands."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from lorrainemail.config.load import load_text

ETC = Path(__file__).parents[3] / "etc"


def test_the_sample_configuration_loads_with_the_three_lists_first() -> None:
    file = ETC / "lorrainemail.toml"
    text = file.read_text()
    settings = load_text(text, str(file), "/var/lib/lorrainemail")
    assert settings.local_domains == ("example.org",)
    assert settings.listen.imap == ()
    lists = [text.index(name) for name in ("local_domains", "relay_networks", "[relay]", "[listen]")]
    assert lists == sorted(lists)


def test_the_commented_rows_of_the_sample_load_too() -> None:
    file = ETC / "lorrainemail.toml"
    lines = [line.removeprefix("# ") for line in file.read_text().splitlines()]
    rows = [line for line in lines if not line or line[0] in '"[' or " = " in line]
    settings = load_text("\n".join(rows), str(file), "/var/lib/lorrainemail")
    assert settings.relay["*"].tls == "verified"
    assert settings.tls.certificate == "/var/lib/lorrainemail/tls/fullchain.pem"


def test_the_unit_starts_the_server_in_front_without_root() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ETC / "lorrainemail.service")
    service = unit["Service"]
    assert " -n --pidfile= lorrainemail" in service["ExecStart"]
    assert service["User"] == "lorrainemail"
    assert service["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "lorrainemail.service"
    text = (ETC / "lorrainemail.service").read_text()
    unit.write_text(text.replace("/opt/lorrainemail/bin/twistd", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Unknown key" not in done.stderr
    assert "Failed to parse" not in done.stderr
