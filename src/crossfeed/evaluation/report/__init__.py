"""An evaluation as one HTML page: facts in, text out, without touching files."""
