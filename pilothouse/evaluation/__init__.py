"""Measurements beside a peer or a limit, run by `pilothouse bench`."""
