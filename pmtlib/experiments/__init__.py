"""The experiments behind the book, one module a section; each result is stored under its key.

A profile (``notebooks/profiles/*.yaml``) gives every parameter. ``paper`` is the full measurement on research data
and is stored; ``quick`` runs the same code on the sample photographs and ``smoke`` on a few steps, for tests.
"""
