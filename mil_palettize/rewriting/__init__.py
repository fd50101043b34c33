"""Expressions into packages and back out of them, and the verification of what was written."""
