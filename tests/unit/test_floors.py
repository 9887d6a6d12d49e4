"""The floors of the house: a package imports only from rows above its own, and doors never know each other.

The rows are those of the design, top first. Composition (``service``, ``tap``, ``setup``, ``cli``, ``lab``)
may import anything; nothing but composition imports composition.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

import lorrainemail

ROOT = Path(lorrainemail.__file__).parent

#: Top row first; packages of one row may not import each other.
ROWS: tuple[tuple[str, ...], ...] = (
    ("version",),
    ("errors",),
    ("addresses",),
    ("envelope",),
    ("interfaces",),
    ("message",),
    ("grammar",),
    ("ops",),
    ("config",),
    ("net",),
    ("tables",),
    ("sasl",),
    ("store",),
    ("queue",),
    ("sieve",),
    ("certs",),
    ("mailauth",),
    ("tlspolicy",),
    ("filters",),
    ("policy",),
    ("delivery",),
    ("transaction",),
    ("intake",),
    ("smtp", "pop3", "imap", "managesieve", "http", "dns", "control"),
    ("setup", "transfer", "lab", "cli", "service", "tap", "plugins"),
)
COMPOSITION = frozenset(ROWS[-1])
#: Where the reactor may be named; everybody else is handed one.
NAMES_REACTOR = ("service.py", "tap.py", "cli/")
ROW = {name: number for number, row in enumerate(ROWS) for name in row}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def owner(path: Path) -> str:
    """The package (or module of the top level) that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@functools.cache
def imports(path: Path) -> set[str]:
    """Full names of what a file imports, wherever in it, also for the type checker alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    """The packages of the house that a file imports, its own left out.

    The package ``plugins`` is where plugins are looked for; its name alone is no import of what is in it.
    """
    names = {name for name in imports(path) if name.startswith("lorrainemail.")} - {"lorrainemail.plugins"}
    return {name.split(".")[1] for name in names} - {owner(path), "__version__"}


def test_every_package_has_its_row() -> None:
    assert {owner(path) for path in modules()} <= set(ROW)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_imports_only_from_rows_above_its_own(path: Path) -> None:
    mine = owner(path)
    for other in ours(path):
        if mine in COMPOSITION:
            continue
        assert ROW[other] < ROW[mine], f"{path.relative_to(ROOT)} imports {other}, which stands below"


def test_twisted_knows_the_server_by_its_plugin_alone() -> None:
    plugin = ROOT.parent / "twisted" / "plugins" / "lorrainemail_plugin.py"
    if plugin.exists():  # not where the package is installed away from its sources
        assert "lorrainemail" not in " ".join(imports(plugin))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_reactor_is_handed_in(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    if not name.startswith(NAMES_REACTOR):
        assert "twisted.internet.reactor" not in imports(path), f"{name} imports the reactor"
