"""Palettes whose entries are vectors."""
