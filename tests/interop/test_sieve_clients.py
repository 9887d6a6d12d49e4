"""sieve-connect looks after an account's filter scripts by ManageSieve."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.interop

PASSWORD = "correct horse battery"
Tool = Callable[[str], str]


@pytest.fixture
def connect(make_server: Any, tool: Tool) -> Callable[..., str]:
    """Run sieve-connect against a server; what it said."""
    program = tool("sieve-connect")
    server = make_server()

    def run(*words: str, mechanism: str = "PLAIN", status: int = 0) -> str:
        read, write = os.pipe()
        os.write(write, PASSWORD.encode() + b"\n")
        os.close(write)
        try:
            done = subprocess.run(
                [
                    program,
                    *("--server", server.address, "--port", "2419", "--user", "bob@ours.test"),
                    *("--passwordfd", str(read), "--authmech", mechanism),
                    *("--tlscafile", str(server.ca), "--tlshostname", server.hostname),
                    *words,
                ],
                capture_output=True,
                timeout=60,
                check=False,
                pass_fds=(read,),
                stdin=subprocess.DEVNULL,
                cwd=server.directory,
            )
        finally:
            os.close(read)
        said = (done.stdout + done.stderr).decode(errors="replace")
        assert (done.returncode == 0) is (status == 0), said
        return said

    run.server = server  # type: ignore[attr-defined]
    return run


def test_sieve_connect_stores_activates_reads_and_removes(connect: Any, tmp_path: Path) -> None:
    script = 'require ["fileinto", "mailbox"];\nfileinto :create "Lists"; # "quotes" and \\\n'
    (tmp_path / "main.sieve").write_text(script)
    connect("--localsieve", str(tmp_path / "main.sieve"), "--remotesieve", "main", "--upload")
    connect("--remotesieve", "main", "--activate")
    assert '"main" ACTIVE' in connect("--list")
    connect("--remotesieve", "main", "--localsieve", str(tmp_path / "back.sieve"), "--download")
    assert (tmp_path / "back.sieve").read_text().replace("\r\n", "\n").strip() == script.strip()
    stored = connect.server.command("sieve", "list", "bob@ours.test")
    assert "main" in stored.stdout and "in use" in stored.stdout
    connect("--remotesieve", "main", "--delete", status=1)
    connect("--deactivate")
    connect("--remotesieve", "main", "--delete")
    assert "main" not in connect("--list")


def test_sieve_connect_is_told_what_is_wrong_with_a_script(connect: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.sieve").write_text('keep;\nfileinto "x";\n')
    said = connect("--localsieve", str(tmp_path / "bad.sieve"), "--checkscript", status=1)
    assert "line 2, column 1" in said


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_sieve_connect_logs_in_by(connect: Any, mechanism: str) -> None:
    connect("--list", mechanism=mechanism)
    assert f"by {mechanism}" in connect.server.log_text()
