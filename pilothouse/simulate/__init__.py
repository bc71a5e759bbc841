"""Labelled simulations: estates that are drawn by a seed, with what is wrong in them known beforehand.

The generator knows how companies, queues and servers behave, and nothing of how anything is detected. Read from the
inside out: `noise`, `drawing` (an estate), `load` (its healthy rhythm), `drivers` (what can go wrong, as knobs),
`cell` and `documents` (what the collectors see of it), `faults` and `changes` (who turns the knobs), `truth`,
`running` (through the real fold), `scoring` (against the truth), `families` (what is drawn for which question).
"""
