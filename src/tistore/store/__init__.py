"""The store: log, segments, arrays, tables, and everything that touches its files."""
