"""Error rates with confidence intervals, per-language tables and the error report."""
