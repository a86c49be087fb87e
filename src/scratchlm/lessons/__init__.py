"""Numbered lessons in English and Chinese: every number that a lesson prints is asserted."""
