"""Programs that speak, one process each: see `program`. None of them is imported by the server itself."""
