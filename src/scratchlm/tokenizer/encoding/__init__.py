"""Encode pieces of text as ids."""
