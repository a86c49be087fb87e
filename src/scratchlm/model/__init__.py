"""The transformer and its parts. This file imports nothing, so `model.config` needs no torch."""
