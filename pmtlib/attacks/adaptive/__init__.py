"""Attackers who know the filter."""
