"""Prompts that share a note, a topic or a set are one cluster; others are each their own."""

from __future__ import annotations

import polars as pl
import pytest

from tistore.audit.prompt_clusters import check_cluster, label_clusters
from tistore.errors import QueryError

PROMPTS = pl.DataFrame(
    {
        "prompt_set": ["a", "a", "a", "b"],
        "prompt_id": ["1", "2", "3", "1"],
        "note": ["odd", None, "odd", None],
        "tags": [["topic:tea"], ["x", "topic:tea"], ["x"], None],
    },
    schema_overrides={"tags": pl.List(pl.String)},
)


@pytest.mark.parametrize(
    ("by", "clusters"),
    [
        ("note", ["odd", "a#2", "odd", "b#1"]),
        ("prompt", ["a#1", "a#2", "a#3", "b#1"]),
        ("prompt_set", ["a", "a", "a", "b"]),
        ("topic", ["tea", "tea", "a#3", "b#1"]),
    ],
)
def test_prompts_cluster_by_what_they_share(by, clusters):
    found = label_clusters(PROMPTS, by)

    assert found["cluster"].to_list() == clusters
    assert found.columns == [*PROMPTS.columns, "cluster"]


def test_what_prompts_do_not_have_is_refused_with_what_they_do():
    with pytest.raises(QueryError, match="'notes'.*note"):
        check_cluster("notes")
