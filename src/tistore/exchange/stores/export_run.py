"""A row of `runs` that says what a store was exported from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from tistore.query.store import Store
from tistore.schemas.digest import digest
from tistore.schemas.tables import RUNS
from tistore.version import __version__


def describe_run(store: Store, target: Store, kind: str, settings: Mapping[str, Any]) -> pa.Table:
    """
    Describe an export; the same export again is the same row, and none where it is there.

    Args:
        store: Where it reads.
        target: Where it writes.
        kind: What it makes.
        settings: What it was asked for.

    Returns:
        A `runs` table of one row or none.
    """
    config = {
        "export": kind,
        "store_uuid": store.header.uuid,
        "commit": store.snapshot.number,
        **settings,
    }
    run_id = f"export-{digest(config)}"
    if run_id in target.snapshot.table("runs")["run_id"].to_pylist():
        return RUNS.empty_table()
    row = {
        "run_id": run_id,
        "kind": "export",
        "config": json.dumps(config),
        "versions": json.dumps({"tistore": __version__}),
        "started_at": datetime.now(UTC),
    }
    return pa.Table.from_pylist([row], schema=RUNS)
