"""How far a second reading of the same tokens moves an organism's response scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tistore.audit.cells import Cells
from tistore.query.noise import name_again

if TYPE_CHECKING:
    from tistore.query.store import Store

_READERS_SQL = "SELECT DISTINCT reader FROM responses"


def read_noise(store: Store, cells: Cells) -> dict[tuple[str, str], float]:
    """
    Measure the noise floor of response scores, where `tistore noise` has read some again.

    Returns:
        (organism, vector reference) → mean size of the change of a response's score, in score
        units; organisms nobody has read twice are left out.

    Raises:
        QueryError: As `store.sql` does.
    """
    readers = {row[0] for row in store.sql(_READERS_SQL).fetchall()}
    floors: dict[tuple[str, str], float] = {}
    for organism in cells.organisms:
        if name_again(organism) in readers:
            floors |= _measure(store, cells, organism)
    return floors


def _measure(store: Store, cells: Cells, organism: str) -> dict[tuple[str, str], float]:
    columns = ", ".join(f"avg(abs(project($v{i}))) AS s{i}" for i in range(len(cells.vectors)))
    names = {f"v{i}": one.exact_name for i, one in enumerate(cells.vectors)}
    ((*means,),) = store.sql(
        f"SELECT {columns} FROM response_diffs WHERE reader = $reader AND baseline = $again",
        {"reader": organism, "again": name_again(organism), **names},
    ).fetchall()
    return {
        (organism, vector.reference): float(mean)
        for vector, mean in zip(cells.vectors, means, strict=True)
        if mean is not None
    }
