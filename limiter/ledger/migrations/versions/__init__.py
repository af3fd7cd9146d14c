"""Versions of the books' tables."""
