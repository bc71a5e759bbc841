"""The docs page "How well does it detect?", written from the results in docs/measured/, and nothing else.

    python -m pilothouse.simulate.page            writes docs/detection.md and its plot
    python -m pilothouse.simulate.page --check    exits with 1 when they are not what the results give

A result is what a measurement printed with `-o json`, with the day and the machine under `measured`. What has no result yet
is said to be not measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pilothouse.simulate.plot import lines
from pilothouse.simulate.scoring import DEFINITIONS
from processors.steps.registry import FLEET, ITSELF, STEPS

ROOT = Path(__file__).resolve().parents[2]
MEASURED, PAGE, PLOT = Path("docs/measured"), Path("docs/detection.md"), Path("docs/detection-cost.svg")

HEAD = (
    "runs",
    "to find",
    "found",
    "false",
    "duplicate",
    "precision",
    "recall",
    "median s",
    "p90 s",
    "cause first",
    "tenants",
    "closed",
    "since the end",
)
FIELDS = (
    "runs", "wanted", "found", "false", "duplicates", "precision", "recall", "delay_median_s", "delay_p90_s", "top_1", "tenants",
    "closed", "closed_since_end",
)  # fmt: skip

QUESTIONS = {
    "calendar": "Peaks, holidays, campaigns and maintenance that the calendar expects are silent; what it does not expect is found, also in the middle of a campaign.",
    "deploy": "Regressions of latency, errors, failed jobs, workers and business flow are told from changes that do no harm and from trouble that only coincides with one.",
    "neighbour": "One tenant that takes the database is told from a rise of all, from one that harms nobody, and from locks that look like load.",
    "silence": "Crons, workers, queues, partners and warehouse stop while the web is green; nights, holidays and ordinary days are silent.",
    "capacity": "Disk, write-ahead log, Redis and connections that fill up are told before they are full; swings, one step, and slow growth are not.",
}
COLUMNS = (
    "The columns: runs; happenings that had to be found, those found, false and duplicate alerts; precision and recall; seconds from "
    "the onset to the alert, the median and the 90th percentile; and as shares of the found: true cause ranked first, "
    "tenants right, closed in time, the same counted from the cause's end. A dash: nothing to divide by."
)
OTHERS = {
    "nab": ("Anomalies in single series", "The Numenta Anomaly Benchmark (Lavin & Ahmad 2015, https://github.com/numenta/NAB): 34 of its 58 files, one configuration for all of them, the threshold chosen by NAB's own optimiser as for every detector on its board."),
    "petshop": ("Root causes in a service map", "PetShop (Hardt et al. 2023, https://github.com/amazon-science/petshop-root-cause-analysis): is the faulty service ranked first, and is silence kept without a fault? Each case is read by `pilothouse rca`; the target's answer is never read."),
    "slo": ("SLO alerts", "OpenSLO files over recorded and random series, against what a real Prometheus says at every step."),
}  # fmt: skip


def files() -> dict[Path, str]:
    """The page and its plot."""
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / MEASURED).glob("*.json"))
    }
    out = {PAGE: page(found)}
    if growth := found.get("growth"):
        out[PLOT] = plot(growth)
    return out


def page(found: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    parts = [
        "# How well does it detect?",
        "Written by `python -m pilothouse.simulate.page` from the results in [measured/](measured/); `make check` compares.",
        "In short: what is found, how soon, how often it cries wolf, and whether it names the right cause and the right "
        "tenants. First come drawn companies with known faults, then weeks in which nothing is wrong, then the scenarios "
        "by name, then public data. What each detector looks at, and what it cannot see, stands "
        "[below](#what-each-detector-sees-and-what-it-does-not).",
        "The companies are simulated: noise, load and faults are made by rules (`pilothouse/simulate/`), which never look at how "
        "anything is detected. So the figures say how the steps behave, not how often your servers fail, and a kind of fault "
        "that nobody drew is not in them. Few runs of a kind make a figure rough: of 5 runs, one is a fifth.",
        *_again(found.get("simulate")),
        *_families(found.get("simulate")),
        *_healthy(found.get("healthy"), found.get("healthy_week")),
        *_scenarios(found.get("scenarios")),
        *(part for name in OTHERS for part in _other(name, found.get(name))),
        *_growth(found.get("growth")),
        *_detectors(),
        "## Look and tune yourself",
        "```\npilothouse simulate silence --runs 200 --seed 7 --out runs/          records, findings and labels as JSON lines\n"
        "pilothouse simulate silence --runs 200 --seed 7 -c candidate.yaml     the same runs with other tunables\n```",
        "`candidate.yaml` holds tunables by step, such as `baseline: {limit: 6}`. A file of `--out` begins with the label (what is "
        "wrong, since when, whom it hurts) and the verdict; then come the records as the collectors would have published "
        "them, and what was told. What is drawn never looks at how anything is detected.",
    ]
    return "\n\n".join(parts) + "\n"


def _again(result: Mapping[str, Any] | None) -> Iterable[str]:
    command = result["command"] if result else "pilothouse simulate all --runs 1000 --seed 1 -o json"
    yield "## Have every figure again"
    yield (
        "Each section names its command, and the day and machine of the run. Nothing is drawn from the clock: the same code and "
        "seed draw the same runs and give the same figures, on however many processes, but for what another processor rounds "
        "otherwise; what is measured in CPU time is this machine's."
    )
    yield (
        "```\n"
        "git checkout $(git log -1 --format=%h docs/measured/simulate.json)     the code of that day, when the figures were kept\n"
        "make setup && source .venv/bin/activate\n"
        f"{command} > mine.json       the command that the section names\n"
        "diff <(jq .families docs/measured/simulate.json) <(jq .families mine.json)\n"
        "```"
    )
    yield (
        "Another seed draws other companies and other faults; figures that hold for one seed alone would be luck. A single run is "
        "looked at with `--out runs/`: its file holds the label, every record and what was told, and "
        "`pilothouse explain ID --in runs/FILE` says why."
    )


def _detectors() -> Iterable[str]:
    yield "## What each detector sees, and what it does not"
    yield (
        "Each is one file under `processors/steps/`, named like this list, where the method's tunables stand with their units. "
        "`pilothouse explain` says the same beside every finding."
    )
    for step in (*STEPS.values(), *FLEET.values(), *ITSELF.values()):
        if step.about:
            yield (
                f"**{step.name}** — {step.about.finds} {step.about.method} *Source:* {step.about.source}. "
                f"*Limits:* {step.about.limits}"
            )


def _families(result: Mapping[str, Any] | None) -> Iterable[str]:
    yield "## Labelled simulations"
    if result is None:
        yield "Not measured yet: `pilothouse simulate all --runs 1000 --seed 1 -o json`."
        return
    yield f"`{result['command']}` {_measured(result)}"
    yield "What counts:"
    yield "\n".join(f"- {line}" for line in _sentences(DEFINITIONS))
    names = list(result["families"])
    yield COLUMNS
    yield _table(("family", *HEAD), [(name, *_row(result["families"][name]["figures"])) for name in names])
    if result.get("pace"):
        yield f"Looks are a minute apart; what depends on that is set accordingly: `{json.dumps(result['pace'])}`."
    else:
        yield "Looks are a minute apart, as the estates declare; what depends on that follows it."
    if result.get("settings"):
        yield f"Tunables other than the defaults: `{json.dumps(result['settings'])}`."
    for name in names:
        family = result["families"][name]
        yield f"### {name.capitalize()}"
        yield QUESTIONS.get(name, "")
        yield _table(("what happens", *HEAD), [(kind, *_row(one)) for kind, one in family["kinds"].items()])
        if family["mistaken"]:
            wrong = [
                (kind, ", ".join(f"{what} {count}" for what, count in one.items()))
                for kind, one in family["mistaken"].items()
            ]
            yield "Where it was wrong (kinds of causes, with how often):"
            yield _table(("what happens", "what went wrong"), wrong)


def _healthy(result: Mapping[str, Any] | None, week: Mapping[str, Any] | None) -> Iterable[str]:
    yield "## The healthy estate"
    if result is None:
        yield "Not measured yet: `pilothouse simulate healthy --cells 20 --weeks 8 -o json`."
        return
    yield f"`{result['command']}` {_measured(result)}"
    yield (
        f"{result['cells']} cells with {result['series']:,} series over {result['weeks']} weeks of looks every five minutes "
        f"({result['points']:,} points), with month ends, declared holidays, campaigns and maintenance, a change of clocks, "
        "nightly backups, looks that fail and records that come late. Nothing is wrong, so every alert is a false one."
    )
    rows = [
        ("false alerts by cell and week", result["alerts_per_cell_and_week"]),
        ("the same after the two weeks of learning", result["alerts_per_cell_and_week_after_learning"]),
        ("worst cell, by week", result["worst_cell_per_week"]),
        ("all alerts by week", ", ".join(map(str, result["by_week"]))),
        ("kinds", ", ".join(f"{kind} {count}" for kind, count in result["kinds"].items()) or "none"),
    ]
    yield _table(("what", "figure"), rows)
    if week:
        yield (
            "Since then what waits for people grows in peace outside of shifts until its week was lived once. The first week of "
            f"the same cells was run again with that, the weeks after it were not: {week['alerts']} false alerts instead of "
            f"{result['by_week'][0]}. `{week['command']}` {_measured(week)} Both with looks that were stamped up to half of five "
            "minutes early; now it is half a minute on any grain, so another run differs a little."
        )


def _scenarios(result: Mapping[str, Any] | None) -> Iterable[str]:
    yield "## Scenarios"
    if result is None:
        yield "Not measured yet: `pilothouse simulate scenarios -o json`."
        return
    yield f"`{result['command']}` {_measured(result)}"
    head = (
        "",
        "story",
        "one incident",
        "first cause",
        "right",
        "tenants right",
        "after s",
        "closed",
        "documents late",
        "open behind it",
    )
    rows = [
        (
            name, one["story"], one["is_right"], f"`{one['cause']}`" if one["cause"] else "silent", one["right_cause"],
            one["right_tenants"], one["delay_s"], one["closed"], one["documents"], one["exposed"],
        )
        for name, one in result["scenarios"].items()
    ]  # fmt: skip
    yield _table(head, rows)


def _other(name: str, result: Mapping[str, Any] | None) -> Iterable[str]:
    title, what = OTHERS[name]
    yield f"## {title}"
    yield what
    if result is None:
        yield f"Not measured yet: no `measured/{name}.json`."
        return
    yield f"`{result['command']}` {_measured(result)}"
    bar = result.get("bar", {})
    yield _table(("what", "figure", "asked"), [(key, value, bar.get(key)) for key, value in result["figures"].items()])


def _growth(result: Mapping[str, Any] | None) -> Iterable[str]:
    yield "## Cost grows with the points"
    if result is None:
        yield "Not measured yet: `python -m pilothouse.evaluation.growth`."
        return
    yield f"`{result['command']}` {_measured(result)}"
    yield f"All steps over simulated scrapes, CPU time by points: once the days grow, once the tenants of the cell.\n\n![CPU time by points]({PLOT.name})"
    rows = [(curve["name"], *point) for curve in result["curves"] for point in curve["points"]]
    yield _table(("what grows", "points", "CPU s"), rows)


def plot(result: Mapping[str, Any]) -> str:
    """CPU time by points."""
    return lines({curve["name"]: curve["points"] for curve in result["curves"]}, "points", "CPU s")


def _row(figures: Mapping[str, Any]) -> list[Any]:
    return [figures.get(name) for name in FIELDS]


def _measured(result: Mapping[str, Any]) -> str:
    measured = result.get("measured")
    return f"({measured['date']}, {measured['machine']})" if measured else ""


def _sentences(text: str) -> list[str]:
    return text.replace(".\n", ".\0").replace("\n", " ").split("\0")


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    body = [[_say(one) for one in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(head), ["---"] * len(head), *body])


def _say(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


def main(arguments: Sequence[str]) -> int:
    """Write or check; gives the exit code."""
    wanted = files()
    stale = [
        path for path, text in wanted.items() if not (ROOT / path).is_file() or (ROOT / path).read_text("utf-8") != text
    ]
    if "--check" in arguments:
        for path in stale:
            sys.stdout.write(f"{path} is not what the results give; run `make generate` and commit it\n")
        return 1 if stale else 0
    for path in stale:
        (ROOT / path).write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
