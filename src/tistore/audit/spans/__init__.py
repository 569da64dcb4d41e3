"""Spans that an auditor can trust: fair to length, free of repeats, beside what is ordinary."""
