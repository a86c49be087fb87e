"""The transformer and its parts; nothing is imported here, so `model.config` needs no torch."""
