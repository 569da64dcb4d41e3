"""Labelled spans of responses: brought in, taken out, and looked at along vectors."""
