"""Commits that replace: compacting, and removing readings."""
