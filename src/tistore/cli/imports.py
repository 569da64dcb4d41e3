"""Commands that bring data in: `tistore import FORMAT STORE SOURCE`."""

from __future__ import annotations

import typer

from tistore.cli import import_responses, import_samples, import_trait_interp, import_vectors

app = typer.Typer(help="Bring in what other tools wrote.", no_args_is_help=True)
import_trait_interp.register(app)
import_vectors.register(app)
import_responses.register(app)
import_samples.register(app)
