"""Layers as people write them."""

from __future__ import annotations

import pytest

from tistore.capture.layers import select_layers
from tistore.errors import ConfigError, SiteNotFoundError


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("all", list(range(80))),
        (16, [16]),
        ("16", [16]),
        ("5-8", [5, 6, 7, 8]),
        ("0-75:25", [0, 25, 50, 75]),
        ("0-79:25", [0, 25, 50, 75]),
        ("30%-33%", [24, 25, 26]),
        ("100%", [79]),
        ("5,10", [5, 10]),
        ([20, "10-12", 20], [10, 11, 12, 20]),
    ],
)
def test_select_layers_includes_both_ends_and_sorts(written, expected):
    assert list(select_layers(written, 80)) == expected


@pytest.mark.parametrize("written", ["", "x", "8-5", "1-", "0-9:0", "10%-5", [], "-1", "1.5"])
def test_select_layers_refuses_what_selects_nothing(written):
    with pytest.raises(ConfigError):
        select_layers(written, 80)


@pytest.mark.parametrize("written", [80, "70-80", [0, 99]])
def test_select_layers_names_the_range_when_a_layer_is_not_there(written):
    with pytest.raises(SiteNotFoundError, match="it has layers 0 to 79"):
        select_layers(written, 80)
