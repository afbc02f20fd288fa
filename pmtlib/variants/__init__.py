"""Variants of the transform."""
