"""Tests and intervals whose unit is the prompt; nothing here takes a row a token."""
