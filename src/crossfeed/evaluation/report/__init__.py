"""An evaluation as one HTML page: facts in, text out, no file is touched."""
