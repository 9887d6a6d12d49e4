"""Commands that an operator (or his monitoring) calls often start without the server's libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOADED = """
import sys
from lorrainemail.cli.main import main
main(sys.argv[1:])
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize(
    "words", [["status"], ["reload"], ["queue", "--help"], ["certificate", "renew", "--help"]]
)
def test_what_only_asks_the_server_loads_neither_twisted_nor_openssl(
    tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "lorrainemail.toml").write_text(
        'hostname = "mail.bricoleur.com"\n[listen]\nsmtp = ["tcp:25:interface=127.0.0.1"]\n'
    )
    command = [sys.executable, "-c", LOADED, *words, "--state", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    loaded = set(done.stdout.split())
    assert "lorrainemail" in loaded, done.stderr
    assert not loaded & {"twisted", "OpenSSL", "cryptography", "asyncio", "sqlite3", "dns"}
