"""Checks of printed numbers: sums, copies, constant predictors, impossible pairs, claims."""
