"""The commands, a group a file; each takes arguments and says the answer, and the doing is elsewhere."""
