"""What the last check of a run directory said, for the page of a comparison."""

import json
from pathlib import Path


def said(folder: Path, suffix: str) -> str | None:
    """The words for the experiment's own weights, if there was a check."""
    path = folder / f"check{suffix}.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))["verdicts"]
    return "; ".join(f"{name}: {one['word']}" for name, one in found.items() if one["decides"])
