"""The values of a row: ids, times, domains, and whether it is a click."""
