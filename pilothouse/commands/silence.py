"""Commands on silences."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from pilothouse.commands.answers import Output, OutputOption, broker, errors_told, show

app = typer.Typer(no_args_is_help=True, help="Withhold notifications for a while; incidents are told all the same.")


@app.command(
    "add",
    epilog="Example: pilothouse silence add --cell eu1 --cause postgresql.lock:acme --for 2h --reason 'month end, known'",
)
def silence_add(
    cells: Annotated[list[str], typer.Option("--cell", help="Cell it is for; may be given again.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Why; whoever reads of the incident sees it.", show_default=False)],
    length: Annotated[str, typer.Option("--for", help="For how long: 90m, 2h, 3d.", show_default=False)],
    cause: Annotated[str | None, typer.Option(help="First cause, as KIND:RESOURCE or KIND.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Tenant that alone suffers.")] = None,
    author: Annotated[str | None, typer.Option(help="Who wants it; who is logged in when left out.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Notify nobody of matching incidents for a while; what is open then is notified then."""
    from pilothouse import silence as silencing

    with errors_told():
        at_ms, (settings, kafka) = silencing.now_ms(), broker()
        until_ms = at_ms + silencing.lasts_ms(length)
        made = silencing.made(cause, tenant, until_ms, author or silencing.author(), reason, at_ms)
        held = [silencing.Held(cell, made) for cell in cells]
        asyncio.run(silencing.say(kafka, held, at_ms, settings.topic_prefix))
    show([one.as_json() for one in held], output, silencing.text(held))


@app.command("list", epilog="Example: pilothouse silence list -o json")
def silence_list(output: OutputOption = Output.TEXT) -> None:
    """What is silenced now, for how long, by whom and why."""
    from pilothouse import silence as silencing

    with errors_told():
        settings, kafka = broker()
        held = asyncio.run(silencing.held(kafka, silencing.now_ms(), settings.topic_prefix))
    show([one.as_json() for one in held], output, silencing.text(held))


@app.command("end", epilog="Example: pilothouse silence end 5f0c9a1b22de")
def silence_end(
    identity: Annotated[str, typer.Argument(metavar="ID", help="Of the silence.", show_default=False)],
    author: Annotated[str | None, typer.Option(help="Who ends it; who is logged in when left out.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """End a silence now; what it holds back and is open is notified."""
    from pilothouse import silence as silencing

    with errors_told():
        settings, kafka = broker()
        who = author or silencing.author()
        held = asyncio.run(silencing.end(kafka, identity, who, silencing.now_ms(), settings.topic_prefix))
    show([one.as_json() for one in held], output, silencing.text(held))
