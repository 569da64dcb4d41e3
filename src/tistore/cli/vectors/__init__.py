"""Commands about vectors: `tistore vectors …`."""

import typer

from tistore.cli.vectors import (
    check,
    choose,
    compare,
    evaluate,
    extract,
    lens,
    quantise,
    remove,
    stored,
    vet,
)

app = typer.Typer(help="List, add, extract, judge and choose vectors.", no_args_is_help=True)
for module in (stored, extract, evaluate, choose, compare, quantise, lens, check, remove, vet):
    module.register(app)
