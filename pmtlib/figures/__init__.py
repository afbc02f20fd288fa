"""Figures and tables of the book, one module a section. They draw what :mod:`pmtlib.experiments` returns."""
