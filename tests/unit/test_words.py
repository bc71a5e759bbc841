"""Series and amounts as people say them."""

from __future__ import annotations

import pytest

from schemas.metrics import METRICS, Departure, Metric
from schemas.series import parse
from schemas.words import amounts, called


@pytest.mark.parametrize("metric", [one for one in METRICS if one.bad is not Departure.NONE], ids=lambda one: one.name)
def test_what_may_be_told_of_has_a_name_for_people(metric: Metric) -> None:
    assert metric.title, f"{metric.name} needs a title: a signal may speak of it"
    assert "." not in metric.title
    assert len(metric.title) <= 50


def test_titles_tell_metrics_apart() -> None:
    titles = [one.title for one in METRICS if one.title]
    assert len(titles) == len(set(titles))


def test_a_series_is_called_by_its_title_and_what_it_is_of() -> None:
    waits = parse('odoo.queue_job.age.max{odoo.queue_job.channel="root.edi",tenant.id="acme"}')
    assert called(waits) == "age of the oldest waiting job (root.edi)"
    assert called(parse("somebody.elses.metric")) == "somebody.elses.metric"


@pytest.mark.parametrize(
    ("metric", "values", "said"),
    [
        ("redis.ping.duration", (0.31, 0.0004), ("310 ms", "0.4 ms")),
        ("odoo.queue_job.age.max", (2_009, 0), ("2,009 s", "0 s")),
        ("postgresql.transaction.age.max", (36_000, 7_200), ("10 h", "2 h")),
        ("redis.memory.used", (3 * 2**30, 2**29), ("3 GiB", "0.5 GiB")),
        ("postgresql.temp.bytes", (5 * 2**20,), ("5 MiB/s",)),
        ("system.filesystem.utilization", (0.97,), ("97 %",)),
        ("erp.document.count", (46, 9.489), ("46", "9.49")),
        ("odoo.queue_job.done", (2.5, 0.01), ("2.5/s", "0.01/s")),
        ("odoo.queue_job.done", (0.05, 0.001), ("3/min", "0.06/min")),
        ("erp.document.transitions", (0.002, 0), ("7.2/h", "0/h")),
        ("somebody.elses.metric", (0.5,), ("0.5",)),
    ],
)  # fmt: skip
def test_amounts_have_the_unit_that_suits_the_largest(
    metric: str, values: tuple[float, ...], said: tuple[str, ...]
) -> None:
    assert amounts(metric, *values) == said
