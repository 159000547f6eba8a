"""Figures of results, for print."""
