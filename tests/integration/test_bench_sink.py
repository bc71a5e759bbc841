"""The sink's benchmark runs, and the sink keeps up with plain COPY."""

from __future__ import annotations

from pilothouse.evaluation import sink


async def test_the_sink_is_not_far_from_plain_copy(kafka: str, database_url: str) -> None:
    result = await sink.run(database_url, {"bootstrap_servers": kafka}, sink.Size(scrapes=400, rounds=3))
    # The bar of the benchmark is 0.85; rounds as short as these, beside other tests, say less.
    assert result["ratio_to_copy"] >= 0.5, result
