"""Options that say which of several vectors are meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tistore.schemas.site import COMPONENTS

if TYPE_CHECKING:
    from tistore.vectors.choosing.candidates import Filters

ComponentFilter = Annotated[
    str | None, typer.Option("--component", help=f"Only vectors of it: {', '.join(COMPONENTS)}.")
]
PositionFilter = Annotated[
    str | None, typer.Option("--position", help="Only vectors fitted on these tokens.")
]
MethodFilter = Annotated[
    str | None, typer.Option("--method", help="Only vectors fitted in this way.")
]
ModelFilter = Annotated[
    str | None, typer.Option("--model", help="Only vectors fitted on this model.")
]


def make_filters(
    component: str | None, position: str | None, method: str | None, model: str | None
) -> Filters:
    """Put the options together."""
    from tistore.vectors.choosing.candidates import Filters

    return Filters(component=component, position=position, method=method, model=model)
