"""Bytes on disk: a file is whole or not there."""
