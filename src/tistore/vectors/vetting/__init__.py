"""Vetting: a judge says which scenarios show what they are meant to show."""
