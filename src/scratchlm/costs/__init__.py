"""Compute the cost of a model before building it: parameters, FLOPs, memory, time."""
