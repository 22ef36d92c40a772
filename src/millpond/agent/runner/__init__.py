"""Runs one attempt of a task, from its directories to its output files."""
