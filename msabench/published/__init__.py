"""Published numbers as data, and the papers' tables."""
