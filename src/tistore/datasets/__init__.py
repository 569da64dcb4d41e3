"""Prompt sets, trait scenarios, clauses: what comes from files and is no store's yet."""
