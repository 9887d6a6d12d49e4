"""Endpoint strings are split as Twisted splits them: what is checked and reviewed is what will listen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import endpoints

from lorrainemail.config.values import endpoint_words

pieces = st.sampled_from(["tcp", "25", "interface", "=", ":", "\\", "\\:", "::1", ""])


@given(st.lists(pieces, max_size=12).map("".join))
def test_any_string_is_split_as_twisted_splits_it(text: str) -> None:
    try:
        wanted = endpoints._parse(text)
    except RuntimeError:  # Twisted's own trips over a lone backslash at the end
        with pytest.raises(ValueError):
            endpoint_words(text)
    else:
        assert endpoint_words(text) == wanted
