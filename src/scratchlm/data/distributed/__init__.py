"""Prepare data on many machines, with datatrove's executors."""
