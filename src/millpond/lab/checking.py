"""Lint, as the lab's own: what `autoscale.lint` finds in a formula."""

from millpond.autoscale.lint import Finding, LintFacts, Severity, lint

__all__ = ["Finding", "LintFacts", "Severity", "lint"]
