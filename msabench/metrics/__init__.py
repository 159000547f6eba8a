"""Metric definitions, each with its protocol in its key."""
