"""When a receiver that is away is asked again."""

from __future__ import annotations

import pytest

from sinks.backoff import Backoff, retry_after_s


class Clock:
    """A clock that stands until it is moved."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_pauses_double_up_to_a_bound_and_never_all_at_once() -> None:
    for draw, pauses in ((0.0, [0.5, 1, 2, 4, 4, 4]), (1.0, [1, 2, 4, 8, 8, 8])):
        backoff = Backoff(1.0, 8.0, Clock(), lambda draw=draw: draw)
        assert [backoff.failed() for _ in pauses] == pauses


def test_a_receivers_wish_counts_but_not_beyond_an_hour() -> None:
    backoff = Backoff(clock=Clock())
    assert backoff.failed(120) == 120
    assert backoff.failed(1e9) == 3600


def test_it_is_asked_only_when_the_pause_is_over() -> None:
    clock = Clock()
    backoff = Backoff(clock=clock)
    assert backoff.remaining_s() == 0
    backoff.failed(10)
    clock.now_s += 9
    assert backoff.remaining_s() == 1
    clock.now_s += 2
    assert backoff.remaining_s() == 0
    backoff.failed(10)
    assert backoff.failing_s() == 11
    backoff.succeeded()
    assert (backoff.remaining_s(), backoff.failing_s(), backoff.failures) == (0, 0, 0)


@pytest.mark.parametrize(
    ("headers", "wanted_s"),
    [
        ({"Retry-After": "17"}, 17),
        ({"Retry-After": "Sat, 21 Nov 2026 05:00:30 GMT", "Date": "Sat, 21 Nov 2026 05:00:00 GMT"}, 30),
        ({"Retry-After": "Sat, 21 Nov 2026 04:00:00 GMT", "Date": "Sat, 21 Nov 2026 05:00:00 GMT"}, 0),
        ({"Retry-After": "Sat, 21 Nov 2026 05:00:30 GMT"}, None),
        ({"Retry-After": "soon", "Date": "Sat, 21 Nov 2026 05:00:00 GMT"}, None),
        ({}, None),
    ],
)
def test_a_retry_after_is_a_number_or_a_date(headers: dict[str, str], wanted_s: float | None) -> None:
    assert retry_after_s(headers) == wanted_s
