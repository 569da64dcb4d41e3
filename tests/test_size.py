"""Sizes as people write them."""

from __future__ import annotations

import pytest

from tistore.errors import ConfigError
from tistore.schemas.size import parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("1234", 1234),
        ("12B", 12),
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        ("2GB", 2_000_000_000),
        ("2G", 2_000_000_000),
        ("1.5GiB", 1_610_612_736),
        (".5kB", 500),
        ("3TiB", 3 * 2**40),
    ],
)
def test_a_size_is_read(text, size_bytes):
    assert parse_size("--max-read", text) == size_bytes


@pytest.mark.parametrize("text", ["", "MB", "-1", "1e9", "12 parsecs", "1.2.3GB", "nan", "5iB"])
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match="--max-read .* is no size(.|\n)*500MB"):
        parse_size("--max-read", text)
