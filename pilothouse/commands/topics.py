"""Commands on the governed topics."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from pilothouse.commands.answers import Output, OutputOption, broker, errors_told, misused, show
from pilothouse.terminal import clean

app = typer.Typer(no_args_is_help=True, help="The governed topics: what they are, what is in them.")


@app.command("list", epilog="Example: pilothouse topics list -o json")
def topics_list(output: OutputOption = Output.TEXT) -> None:
    """The catalogue: name, owner, classification, retention."""
    from schemas.topics import TOPICS

    rows = [
        {
            "name": topic.name,
            "description": topic.description,
            "owner": topic.owner,
            "classification": topic.classification.value,
            "retention_days": None if topic.compacted else topic.retention_days,
            "key": topic.key,
        }
        for topic in TOPICS
    ]
    width = max(len(topic.name) for topic in TOPICS)
    text = "\n".join(
        f"{row['name']:{width}}  {row['owner']:20} {row['classification']:13} {row['description']}" for row in rows
    )
    show(rows, output, text)


@app.command("export", epilog="Example: pilothouse topics export contracts/")
def topics_export(
    directory: Annotated[Path, typer.Argument(help="Folder that is made or filled.", show_default=False)],
) -> None:
    """Write JSON Schemas, AsyncAPI and data contracts."""
    from schemas.generate import files

    written = 0
    with errors_told():
        for path, text in files().items():
            if path.parts[:2] == ("schemas", "generated"):
                target = directory.joinpath(*path.parts[2:])
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
                written += 1
    typer.echo(clean(f"{written} files in {directory}"))


@app.command("tail", epilog="Example: pilothouse topics tail signals.incidents.v1 -o json")
def topics_tail(
    topic: Annotated[str, typer.Argument(help="Name of the topic.", show_default=False)],
    output: OutputOption = Output.TEXT,
    count: Annotated[int | None, typer.Option("-n", help="Stop after so many records.", min=1)] = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="Begin with the oldest record.")] = False,
) -> None:
    """Live records of a topic."""
    from pilothouse import tail
    from schemas.topics import TOPICS

    known = [one.name for one in TOPICS if one.model]
    if topic not in known:
        raise misused(f"topic {topic!r} is unknown; known are {', '.join(known)}")
    with errors_told():
        settings, kafka = broker()
        asyncio.run(
            tail.tail(
                kafka,
                settings.topic_prefix + topic,
                output is Output.JSON,
                count,
                from_start,
            )
        )
