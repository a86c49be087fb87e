"""Pieces to merges."""
