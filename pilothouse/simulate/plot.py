"""A line plot as SVG, which needs a few lines and no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 360, 60, 46, 16, 150
COLOURS = ("#1f6f8b", "#c8553d", "#588157", "#7b2d8b")


def lines(curves: Mapping[str, Sequence[Sequence[float]]], across: str, up: str) -> str:
    """Curves of (x, y) from the origin, on linear axes, so that what is linear looks so."""
    most_x = max(point[0] for points in curves.values() for point in points)
    most_y = max(point[1] for points in curves.values() for point in points)

    def at(x: float, y: float) -> str:
        return f"{LEFT + x / most_x * (WIDTH - LEFT - RIGHT):.1f},{HEIGHT - BOTTOM - y / most_y * (HEIGHT - BOTTOM - TOP):.1f}"

    body = [f'<path d="M{at(0, most_y)} L{at(0, 0)} L{at(most_x, 0)}" fill="none" stroke="#444"/>']
    for quarter in (0.25, 0.5, 0.75, 1.0):
        body.append(_text(at(quarter * most_x, 0), f"{quarter * most_x:.3g}", "middle", 18))
        body.append(_text(at(0, quarter * most_y), f"{quarter * most_y:.3g}", "end", 4, -6))
    body.append(_text(at(most_x / 2, 0), across, "middle", 38))
    body.append(_text(at(0, most_y), up, "start", 4, 8))
    for place, (name, points) in enumerate(curves.items()):
        colour = COLOURS[place % len(COLOURS)]
        path = " L".join(at(*point) for point in points)
        body.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [
            f'<circle cx="{(one := at(*point).split(","))[0]}" cy="{one[1]}" r="3" fill="{colour}"/>'
            for point in points
        ]
        body.append(_text(at(*points[-1]), name, "start", 4, 8, colour))
    inside = "\n".join(body)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">\n{inside}\n</svg>\n'


def _text(place: str, text: str, anchor: str, down: int, right: int = 0, colour: str = "#444") -> str:
    x, y = (float(one) for one in place.split(","))
    return f'<text x="{x + right:.1f}" y="{y + down:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
