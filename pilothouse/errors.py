"""What goes wrong by itself, told from what is our fault, without importing anything: `--help` needs no server's client.

Misuse        arguments, environment, estate or input are wrong; the message names the thing, the value, what is right
Unreachable   something that is needed does not answer or cannot be started; the message says the remedy
"""

from __future__ import annotations


class Misuse(Exception):  # noqa: N818 (it is what was done, not what we did)
    """Whoever called can put it right: exit code 2."""


class Unreachable(Exception):  # noqa: N818 (it reads as a state)
    """Something outside has to be put right: exit code 3."""


class Failing(Exception):  # noqa: N818 (it reads as a state)
    """A part of a program did not work when the program was told to stop: exit code 1."""
