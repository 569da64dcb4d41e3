"""A process that answers questions about a store until it is killed."""

from __future__ import annotations

from multiprocessing.connection import Connection

import numpy as np

import tistore


def answer_questions(path: str, connection: Connection) -> None:
    """Open a store, say so, and answer whatever questions come: each by a file, and a word."""
    store = tistore.open(path)
    store.sql("SELECT count(*) FROM tokens").fetchall()
    connection.send("ready")
    while True:
        sql, target, limit = connection.recv()
        table = store.sql(sql, max_read_bytes=limit).to_arrow()
        np.save(target, np.stack([column.to_numpy() for column in table.columns]))
        connection.send("done")
