"""What waits for the clocks of a partition's topics stays bounded, however far one is read ahead of another."""

from __future__ import annotations

from processors.order import Clock, Order, Place
from schemas.codec import Envelope, Received
from schemas.records import Heartbeat, OperationsEvent, Scrape

SLOW, FAST, OTHER = 0, 1, 2


def received(at_ms: int) -> Received:
    record = OperationsEvent(cell="eu1", time_ms=at_ms, resource="r", system="s", name="a")
    return Received(Envelope("p", at_ms, at_ms), record)


def beat(order: Order, topic: int, at_ms: int) -> None:
    offset = order.clocks[topic].next_offset or 0
    order.beat(topic, offset, Heartbeat(publisher="p", time_ms=at_ms))


def read_ahead(order: Order, count: int) -> None:
    for offset in range(count):
        order.add(FAST, offset, received(1_000 + offset))


def test_topics_that_are_ahead_are_left_until_half_of_what_waits_is_gone() -> None:
    order = Order((SLOW, FAST, OTHER), grace_ms=0, stray_ms=10_000, waiting_max=100)
    read_ahead(order, 100)
    beat(order, FAST, 5_000)
    beat(order, OTHER, 5_000)
    assert order.ahead() == frozenset()
    order.add(OTHER, 1, received(5_001))
    assert order.ahead() == {FAST, OTHER}, "the slow topic holds the others up, so it alone is read"
    beat(order, SLOW, 4_000)
    for _ in range(50):
        order.pop()
    assert order.ahead() == {FAST, OTHER}
    order.pop()
    assert order.ahead() == frozenset()


def test_after_a_restart_the_topics_that_are_read_again_are_waited_for() -> None:
    order = Order((SLOW, FAST), grace_ms=0, stray_ms=10_000, waiting_max=10)
    clocks = [Clock(next_offset=50, time_ms=9_000), Clock(next_offset=1, time_ms=500)]
    order.resume(Place(-1, -1, -1), clocks, 400)
    read_ahead(order, 11)
    assert order.ahead() == {FAST}, (
        "the clock of the slow topic is known, but what stood before it is not read again yet"
    )


def test_a_topic_made_anew_is_read_from_its_beginning_and_holds_nobody_up() -> None:
    order = Order((SLOW, FAST), grace_ms=0, stray_ms=10_000)
    order.resume(Place(8_000, SLOW, 49), [Clock(next_offset=50, time_ms=9_000), Clock(next_offset=1, time_ms=500)], 400)
    order.add(FAST, 0, received(9_500))
    order.begin_anew(SLOW)
    beat(order, FAST, 20_000)
    assert order.clocks[SLOW].next_offset is None
    order.add(SLOW, 0, received(9_200))
    beat(order, SLOW, 20_000)
    assert order.clocks[SLOW].next_offset == 2
    assert order.horizon_ms == 20_000
    assert [order.pop()[0].at_ms for _ in range(2)] == [9_200, 9_500]


def test_wide_scrapes_that_wait_are_bounded_by_their_size() -> None:
    """A flood of a million series in wide scrapes on one topic does not fill the memory while another topic is waited for."""
    order = Order((SLOW, FAST), grace_ms=0, stray_ms=10_000)
    wide = Scrape.of(
        {f"m_{number:05}": 1.0 for number in range(20_000)}, cell="eu1", resource="r", system="s", time_ms=1_000
    )
    order.beat(FAST, 0, Heartbeat(publisher="p", time_ms=1_000))
    held = 1
    while not order.ahead() and held < 1_000:
        order.add(FAST, held, Received(Envelope("bad", held, 1_000), wide))
        held += 1
    assert 100 < held < 500
