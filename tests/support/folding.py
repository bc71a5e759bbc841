"""One unit of a step as the fold drives it: ticks as it asks for them, then the record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from processors.step import Item, Step


class Folding:
    """The state of a unit and all that it has told so far."""

    def __init__(self, step: Step[Any, Any], config: Any, state: Any = None) -> None:
        self.step, self.config = step, config
        self.state = step.fresh() if state is None else state
        self.told: list[Any] = []

    def until(self, at_ms: float) -> None:
        """The ticks that are due by then."""
        while (due := self.step.due(self.state)) is not None and due <= at_ms:
            self.state, found = self.step.tick(self.config, self.state, due)
            self.told += found

    def take(self, item: Item) -> None:
        """A record, after the ticks before it."""
        self.until(item.at_ms)
        self.state, found = self.step.step(self.config, self.state, item)
        self.told += found


def folded(
    step: Step[Any, Any],
    config: Any,
    items: Iterable[Item],
    *,
    until_ms: float = 0,
    between: Callable[[Any], Any] = lambda state: state,
) -> list[Any]:
    """What is told of the items, and by the ticks after them; `between` is done to the state after each item."""
    one = Folding(step, config)
    for item in items:
        one.take(item)
        one.state = between(one.state)
    one.until(until_ms)
    return one.told


def restarted(step: Step[Any, Any]) -> Callable[[Any], Any]:
    """For `between`: the state goes through a snapshot, as in a restart. What packs to nothing begins afresh in any case."""
    return lambda state: step.unpack(parts) if (parts := step.pack(state)) else state
