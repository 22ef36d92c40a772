"""Bytes in and out of a node: resource files and output files."""
