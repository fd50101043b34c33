"""Opsets, and moving a program up to a later one without changing what it computes."""
