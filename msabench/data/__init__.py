"""Corpora: what they hold, how files are read, how batches are made."""
