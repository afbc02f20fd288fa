"""Readers of foreign weight files."""
