"""Statistics, verdicts and reports."""
