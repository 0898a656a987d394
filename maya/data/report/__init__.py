"""What a corpus holds: statistics, charts and the report page."""
