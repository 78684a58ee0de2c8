"""Verdicts and promotion: suites test builds, and what passed moves on. docs/operations.md."""
