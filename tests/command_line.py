"""Commands, run in the tests' own process."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from tistore.cli.main import app


def run(*arguments: object) -> Result:
    """Run a command; errors are an exit code and a message, as a shell has them."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(*arguments: object) -> list[dict[str, Any]]:
    """Run a command that prints rows, with --json."""
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)
