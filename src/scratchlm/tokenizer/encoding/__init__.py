"""Pieces to ids."""
