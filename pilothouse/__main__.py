"""`python -m pilothouse` is the program."""

from __future__ import annotations

from pilothouse.cli import main

main()
