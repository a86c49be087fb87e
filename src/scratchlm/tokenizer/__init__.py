"""Byte-level BPE: cutting text into pieces, learning merges, encoding and decoding, files."""
