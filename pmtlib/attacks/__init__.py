"""Attackers: what a receiver may do to an upload, one family a module."""
