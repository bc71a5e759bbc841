"""What the company has promised, as OpenSLO documents: the web answers, and orders leave the same day.

Written as in an estate's folder; `docs/slo.md` tells how to write one's own. The faults of the demo last for half a minute,
which takes a part of the month's budget and is no reason for a page; minutes are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_suffix(".yaml")


def documents() -> tuple[dict[str, Any], ...]:
    """The OpenSLO documents of the demo's estate."""
    return tuple(yaml.safe_load_all(FILE.read_text(encoding="utf-8")))
