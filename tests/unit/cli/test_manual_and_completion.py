"""Manual pages, completion, and what the documents tell people to type: all of it as the command is."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from lorrainemail.cli import completion, manual
from lorrainemail.cli.grammar import Word, all_words
from lorrainemail.cli.main import COMMANDS, main
from lorrainemail.config.model import Settings

ROOT = Path(__file__).parents[3]
MAN = ROOT / "docs" / "man"
WORDS = all_words()
BY_PATH = {word.path: word for word in WORDS}
DOCUMENTS = [ROOT / "README.rst", *sorted((ROOT / "docs").rglob("*.rst"))]


def test_every_command_is_known_to_the_grammar() -> None:
    assert {word.path[0] for word in WORDS if word.path} == set(COMMANDS)
    assert "DIRECTORY" in {one.metavar for one in BY_PATH["backup",].arguments}
    assert any("--map" in one.names for one in BY_PATH["import", "maildir"].options)


@pytest.mark.skipif(not MAN.is_dir(), reason="not where the sources are")
@pytest.mark.parametrize("name", manual.pages())
def test_the_manual_pages_are_those_of_this_version(name: str) -> None:
    again = "write them anew: python -m lorrainemail.cli.manual docs/man"
    assert (MAN / name).read_text(encoding="utf-8") == manual.pages()[name], again


def test_the_manual_names_every_command_option_and_setting() -> None:
    pages = manual.pages()
    page = pages["lorrainemail.1"].replace("\\-", "-")
    for word in WORDS:
        assert "lorrainemail " + " ".join(word.path) in page
        for option in word.options:
            assert all(name in page for name in option.names), (word.path, option.names)
    for name in Settings.__attrs_attrs__:
        if "doc" in name.metadata:
            assert name.name in pages["lorrainemail.toml.5"]


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
@pytest.mark.parametrize("name", manual.pages())
def test_a_strict_reader_takes_the_manual_pages(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(manual.pages()[name], encoding="utf-8")
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", str(tmp_path / name)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


def complete(tmp_path: Path, *words: str) -> set[str]:
    """What bash offers behind these words."""
    script = tmp_path / "completion"
    script.write_text(completion.bash(WORDS))
    line = " ".join(shlex.quote(word) for word in ("lorrainemail", *words))
    asked = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _lorrainemail; "
    done = subprocess.run(
        ["bash", "-c", asked + 'printf "%s\\n" "${COMPREPLY[@]}"'],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert not done.stderr
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_words_and_options(tmp_path: Path) -> None:
    assert complete(tmp_path, "im") == {"import"}
    assert complete(tmp_path, "--state", "/x", "import", "m") == {"maildir", "mbox"}
    assert complete(tmp_path, "import", "imap", "host", "--pass") == {"--password-stdin"}
    assert "--password-stdin" not in complete(tmp_path, "import", "maildir", "--")
    assert complete(tmp_path, "account", "a") >= {"add"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_read_its_completion(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = tmp_path / shell
    script.write_text(capsys.readouterr().out)
    assert all(name in script.read_text() for name in COMMANDS)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr


def told(document: Path) -> list[list[str]]:
    """Commands that a document tells people to type: in blocks, and between double backquotes."""
    text = document.read_text(encoding="utf-8")
    lines = [*re.findall(r"^ +(.*lorrainemail .*)$", text, re.MULTILINE), *re.findall(r"``([^`]+)``", text)]
    found = []
    for line in lines:
        line = re.sub(r"\s+#.*", "", " ".join(line.split()))
        line = re.sub(r"^(sudo (-u \S+ )?)?", "", line)
        match = re.match(r"(?:\S*/)?lorrainemail ((?:[a-z]|--).*)", line)
        if match is not None and "twistd" not in line:
            found.append(match.group(1).split())
    return found


@pytest.mark.skipif(not MAN.is_dir(), reason="not where the sources are")
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_documents_tell_people_to_type_exists(document: Path) -> None:
    for words in told(document):
        word: Word = BY_PATH[()]
        known = {name for one in word.options for name in one.names} | {"--help"}
        for one in words:
            below = one.rstrip(",.;:)")
            if below.startswith("--"):
                assert below.partition("=")[0] in known, f"{document.name}: lorrainemail {' '.join(words)}"
            elif (*word.path, below) in BY_PATH:
                word = BY_PATH[(*word.path, below)]
                known |= {name for option in word.options for name in option.names}
            elif word.below and "|" not in below and below[:1].islower():
                pytest.fail(f"{document.name}: lorrainemail {' '.join(words)}: there is no {below}")
