"""The configuration reference says what the types say."""

from __future__ import annotations

from pathlib import Path

import attrs

from lorrainemail.config.model import Settings
from lorrainemail.config.reference import reference

DOCS = Path(__file__).parents[3] / "docs" / "configuration.rst"


def test_the_printed_reference_is_the_one_in_the_docs() -> None:
    assert DOCS.read_text(encoding="utf-8") == reference()


def test_every_setting_is_in_the_reference() -> None:
    text = reference()
    attrs.resolve_types(Settings)
    for field in attrs.fields(Settings):
        if field.name not in ("file", "lines"):
            assert f"``{field.name}``" in text or f"[{field.name}]\n" in text
