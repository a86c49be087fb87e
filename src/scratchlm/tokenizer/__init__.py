"""Byte-level BPE: cut text into pieces, learn merges, encode, decode, read and write files."""
