"""Numbers as people read them."""

from __future__ import annotations


def format_bytes(size: float) -> str:
    """Bytes in decimal units, as the Hub and df -H show them: 1,500 -> "1.5 kB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        # 999.95 would be written as 1000.0 in its own unit.
        if abs(size) < (999.5 if unit == "B" else 999.95):
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} PB"


def format_seconds(seconds: float) -> str:
    """A duration with two units at most: 3,700 -> "1 h 2 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def format_count(count: float) -> str:
    """A number with at most four characters and its scale: 12,345 -> "12.3k"; small whole ones stay as they are."""
    if count == int(count) and abs(count) < 10_000:
        return f"{count:,.0f}"
    for scale in ("", "k", "M", "G", "T"):
        if abs(count) < 999.5:
            return f"{count:.3g}{scale}"
        count /= 1000
    return f"{count:.3g}P"


def counted(count: int, name: str) -> str:
    """A count with its noun: (1, "fault") -> "1 fault", (1200, "fault") -> "1,200 faults"."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"
