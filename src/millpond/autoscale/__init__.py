"""Autoscale formulas, pure: parse, print, evaluate, lint; the history of samples they look at."""
