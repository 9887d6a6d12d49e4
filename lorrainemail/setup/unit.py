"""The systemd unit and the server's user, installed or shown.

The files are those of ``etc/`` in the sources, which an installation has in ``share/lorrainemail``; only the
path of twistd is put in. Called by ``lorrainemail init``. Fails with OSError where a file cannot be written,
and with :class:`UnitFault` where a command of systemd fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import lorrainemail

UNIT: Final = "lorrainemail.service"
SYSUSERS: Final = "lorrainemail.sysusers"
#: Where the unit's own text has the programs.
_OPT: Final = "/opt/lorrainemail/bin"
#: Seconds for any one command of systemd.
PATIENCE: Final = 60.0

Run = Callable[[Sequence[str]], None]


class UnitFault(Exception):
    """A command failed; the text says which and how."""


def source(name: str) -> Path:
    """One of the files, in an installation or in the sources."""
    for directory in (
        Path(sys.prefix, "share", "lorrainemail"),
        Path(lorrainemail.__file__).parents[1] / "etc",
    ):
        if (directory / name).is_file():
            return directory / name
    raise UnitFault(f"{name} is not installed; take it from etc/ of the sources")


def unit_text() -> str:
    """The unit for the programs of this installation."""
    text = source(UNIT).read_text(encoding="utf-8")
    return text.replace(_OPT, os.path.dirname(os.path.abspath(sys.executable)))


def has_systemd() -> bool:
    return os.path.isdir("/run/systemd/system")


def run_command(words: Sequence[str]) -> None:
    """Run it to its end."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnitFault(f"{words[0]}: {error}") from None
    if done.returncode:
        raise UnitFault(f"{' '.join(words)}: {done.stderr.strip()[:500]}")


def make_user(root: str = "/", run: Run = run_command) -> None:
    """The server's user, before the state directory is made for it."""
    _write(os.path.join(root, "etc/sysusers.d/lorrainemail.conf"), source(SYSUSERS).read_text("utf-8"))
    run(["systemd-sysusers"])


def install(root: str = "/", run: Run = run_command) -> None:
    """The unit, started now and at each boot; before that, twistd's list of plugins for the server's user."""
    _write(os.path.join(root, "etc/systemd/system", UNIT), unit_text())
    run([os.path.join(os.path.dirname(os.path.abspath(sys.executable)), "twistd"), "--help"])
    run(["systemctl", "daemon-reload"])
    run(["systemctl", "enable", "--now", UNIT])


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)
