"""Statistics of a corpus, charts and the report page."""
