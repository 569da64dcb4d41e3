"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes depends on what else the machine is doing: nothing here is timed.
settings.register_profile("tistore", deadline=None)
settings.load_profile("tistore")
