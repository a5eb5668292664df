"""Numbers as people read them."""

from __future__ import annotations


def format_bytes(size: float) -> str:
    """Bytes in decimal units, as the Hub and df -H show them: 1,500 -> "1.5 kB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} PB"


def format_seconds(seconds: float) -> str:
    """A duration with two units at most: 3,700 -> "1 h 2 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
