"""The terminal's story of the demo: what was done, what was seen, why, and what is at stake."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from pilothouse.terminal import clean
from schemas.records import Incident, Phase


class Story:
    """Prints lines with the seconds since the first live record."""

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.time, *, tells: bool = True
    ) -> None:
        self._console, self._clock = console or Console(highlight=False), clock
        self.tells = tells
        """Whether anything is printed."""
        self.began_s: float | None = None

    def say(self, text: str, style: str = "") -> None:
        """A plain line."""
        if not self.tells:
            return
        safe = escape(clean(text))
        shown = f"[{style}]{safe}[/{style}]" if style else safe
        self._console.print(f"[dim]{self._stamp()}[/dim] {shown}")

    def done(self, text: str) -> None:
        """Something that the demo did to the servers."""
        self.say(f"DONE  {text}", "yellow")

    def seen(self, incident: Incident) -> None:
        """What Pilothouse told of an incident."""
        if incident.phase is Phase.RESOLVED:
            self.say(f"OVER  {incident.causes[0].cause} in {incident.cell}", "green")
            return
        opens = incident.phase is Phase.OPEN
        word = ("SEEN " if incident.version == 1 else "AGAIN") if opens else "NEWS "
        self.say(f"{word} {incident.title}", "bold red" if opens else "red")
        top = incident.causes[0]
        others = ", ".join(f"{cause.cause} {cause.probability:.0%}" for cause in incident.causes[1:3])
        self._detail(f"why   {top.cause} ({top.probability:.0%})" + (f"; less likely {others}" if others else ""))
        for evidence in top.evidence[:3]:
            self._detail(f"      {evidence.text[:160]}")
        if incident.tenants:
            self._detail(f"whom  {', '.join(incident.tenants)}")
        if incident.impact.documents:
            names = ", ".join(incident.impact.names[:4])
            value = f"{incident.impact.value:,.0f} {incident.impact.currency or ''}"
            self._detail(f"stake {incident.impact.documents} documents, {value}: {names}")
        if incident.impact.exposed:
            self._detail(f"risk  {incident.impact.exposed} open documents of theirs are delayed if it goes on")
        if incident.advice:
            self._detail(f"do    {incident.advice}")

    def _detail(self, text: str) -> None:
        if not self.tells:
            return
        self._console.print(f"         {escape(clean(text))}", style="dim", soft_wrap=True)

    def _stamp(self) -> str:
        return "   start" if self.began_s is None else f"{self._clock() - self.began_s:7.1f}s"
