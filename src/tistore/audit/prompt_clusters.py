"""Which prompts are no independent evidence: those that share a note, a topic or a set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from tistore.errors import QueryError, nearest

if TYPE_CHECKING:
    import polars

ClusterBy = Literal["prompt", "note", "topic", "prompt_set"]
CLUSTERS: tuple[ClusterBy, ...] = get_args(ClusterBy)

TOPIC = "topic:"
"""How the tag that names a prompt's topic begins."""


def topic_of(tags: list[str] | None) -> str | None:
    """Give the topic that a prompt's tags name, if any."""
    return next((tag.removeprefix(TOPIC) for tag in tags or () if tag.startswith(TOPIC)), None)


def check_cluster(by: str) -> None:
    """
    Check that prompts can be clustered by something.

    Raises:
        QueryError: They cannot.
    """
    if by not in CLUSTERS:
        raise QueryError(f"prompts do not cluster by {by!r}; {nearest(by, CLUSTERS)}")


def label_clusters(rows: polars.DataFrame, by: ClusterBy) -> polars.DataFrame:
    """
    Add the column `cluster`; a prompt that has no note, or topic, is a cluster of its own.

    Args:
        rows: Has `prompt_set, prompt_id, note, tags`.
        by: What prompts of a cluster share.
    """
    import polars as pl

    prompt = pl.concat_str("prompt_set", pl.lit("#"), "prompt_id")
    if by == "prompt":
        return rows.with_columns(cluster=prompt)
    if by == "topic":
        shared = pl.Series(map(topic_of, rows["tags"].to_list()), dtype=pl.String)
        return (
            rows.with_columns(topic=shared)
            .with_columns(cluster=pl.col("topic").fill_null(prompt))
            .drop("topic")
        )
    return rows.with_columns(cluster=pl.col(by).fill_null(prompt))
