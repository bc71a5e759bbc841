"""Writes what is derived from the models: schemas, contracts and the reference pages of the docs.

`python -m schemas.generate` writes, `--check` says which files are not what they would be and exits with 1. This is a
build tool: the only module of `schemas` that touches files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from schemas import metrics
from schemas.bounds import BOUNDS, METRIC, NAME
from schemas.contracts import MODELS, asyncapi, file_name, json_schema, odcs
from schemas.topics import TOPICS

ROOT = Path(__file__).resolve().parent.parent


def files() -> Mapping[Path, str]:
    """Every generated file by its path from the root."""
    out: dict[Path, str] = {}
    for model in MODELS:
        out[Path("schemas/generated/json", f"{file_name(model)}.json")] = _json(json_schema(model))
    for topic in TOPICS:
        if topic.model:
            out[Path("schemas/generated/odcs", f"{topic.name}.yaml")] = _yaml(odcs(topic))
    out[Path("schemas/generated/asyncapi.yaml")] = _yaml(asyncapi())
    out[Path("docs/reference/topics.md")] = topics_page()
    out[Path("docs/reference/metrics.md")] = metrics_page()
    out[Path("docs/reference/bounds.md")] = bounds_page()
    return out


def topics_page() -> str:
    """The catalogue of topics as a page."""
    rows = [
        (
            f"`{topic.name}`",
            topic.description,
            topic.owner,
            topic.classification.value,
            "for ever (compacted)" if topic.compacted else f"{topic.retention_days} days",
            topic.key,
        )
        for topic in TOPICS
    ]
    table = _table(("topic", "what", "owner", "classification", "kept", "key"), rows)
    return f"# Topics\n\nGenerated from `schemas/topics.py`.\n\n{table}"


def metrics_page() -> str:
    """The catalogue of metrics as a page."""
    rows = [
        (f"`{one.name}`", one.title, one.kind.value, one.unit, one.description, one.bad.value, one.cause or "")
        for one in sorted(metrics.METRICS, key=lambda metric: metric.name)
    ]
    table = _table(("metric", "in sentences", "kind", "unit", "meaning", "bad", "speaks for"), rows)
    return (
        f"# Metrics\n\nGenerated from `schemas/metrics/`. Units are UCUM; a sum is cumulative and monotone.\n\n{table}"
    )


def bounds_page() -> str:
    """The bounds as a page."""
    rows = [(f"`{one.name}`", one.holds, one.beyond, f"`{one.where}`") for one in sorted(BOUNDS)]
    table = _table(("bound", "of what", "beyond it", "stands in"), rows)
    return (
        "# Bounds\n\nGenerated from `schemas/bounds.py`. How often each was reached since its program began is "
        f"`{METRIC}`, by `{NAME}`.\n\n{table}"
    )


def main(arguments: list[str]) -> int:
    """Write or check; gives the exit code."""
    wanted = files()
    stale = [path for path, text in wanted.items() if not _is(ROOT / path, text)]
    left = sorted(path for path in _present() if path not in wanted)
    if "--check" in arguments:
        for path in [*stale, *left]:
            sys.stdout.write(f"{path} is not what the models give; run `make generate` and commit it\n")
        return 1 if stale or left else 0
    for path in left:
        (ROOT / path).unlink()
    for path in stale:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(wanted[path], encoding="utf-8")
    return 0


def _present() -> Iterable[Path]:
    folder = ROOT / "schemas/generated"
    return (path.relative_to(ROOT) for path in folder.rglob("*") if path.is_file())


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _yaml(content: Any) -> str:
    dumped: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    return dumped


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
