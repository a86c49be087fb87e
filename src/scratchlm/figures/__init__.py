"""Logs and models as pictures; the extra `viz` draws them."""
