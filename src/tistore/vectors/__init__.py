"""Fitting directions from readings, and knowing how good they are."""
