"""A report on one organism: what it does that others do not, and the tokens that show it."""
