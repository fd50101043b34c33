"""Palettes whose entries are single numbers."""
