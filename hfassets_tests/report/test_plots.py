"""Pictures fit the event log, whatever is drawn."""

from __future__ import annotations

import io
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hfassets.report.plots import (
    MAX_BYTES,
    asked_and_got,
    bar_chart,
    counted_histogram,
    histogram,
    markdown_image,
    throughput,
)

pytestmark = pytest.mark.unit

AMOUNTS = st.floats(0, 1e15) | st.integers(0, 10**15)


def check(png: bytes) -> None:
    """A PNG that decodes, is not blank and is small enough."""
    assert len(png) <= MAX_BYTES
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    assert picture.width >= 380
    assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 1


@settings(max_examples=10, deadline=None)
@given(st.lists(AMOUNTS, max_size=60), st.sampled_from(["B", "s", "tokens"]))
def test_any_values_make_a_histogram(values: list[float], unit: str) -> None:
    """None, one, equal, zero and far apart values included."""
    check(histogram(values, title="Sizes", unit=unit))


@settings(max_examples=10, deadline=None)
@given(st.dictionaries(st.integers(0, 10**7), st.integers(1, 10**9), max_size=60))
def test_any_counts_make_a_histogram(counts: dict[int, int]) -> None:
    """However many of them there are."""
    check(counted_histogram(counts, title="Lengths", unit="tokens", of="rows"))


@settings(max_examples=10, deadline=None)
@given(st.dictionaries(st.text("ab$_/[]ü% {}\\^", max_size=80), AMOUNTS, max_size=30))
def test_any_names_make_a_bar_chart(amounts: dict[str, float]) -> None:
    """Formula signs in names are names."""
    check(bar_chart(amounts, title="Rows a $split", unit="rows"))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e14)), max_size=200))
def test_any_samples_make_a_throughput(samples: list[tuple[float, float]]) -> None:
    """Ordered samples with equal times, with one or none."""
    check(throughput(list(zip(*map(sorted, zip(*samples, strict=True)), strict=True)), title="Download", unit="B"))


def test_a_busy_picture_gives_up_resolution_to_fit() -> None:
    """Noise with many long names would be far larger at full quality."""
    generator = random.Random(0)
    names = {"".join(generator.choices("abcdefghijklmnopqrstuvwxyz@#%&", k=60)): generator.random() for _ in range(400)}
    check(bar_chart(names, title="W" * 90, unit="rows"))
    samples = [(float(second), generator.random() * 1e9 + second * 1e9) for second in range(3000)]
    check(throughput(samples, title="Download", unit="B"))


def test_a_markdown_image_carries_the_png() -> None:
    """As a data URI, alt text free of brackets; too large a picture is refused."""
    assert markdown_image(b"\x89PNG", "sizes [B]\n") == "![sizes B](data:image/png;base64,iVBORw==)"
    with pytest.raises(ValueError, match="20001 bytes"):
        markdown_image(b"x" * 20_001, "")


def test_importing_reports_does_not_import_matplotlib() -> None:
    """Definitions and every command load `report`; the price is paid when something is drawn."""
    code = "import sys, hfassets.report.plots, hfassets.report.tables; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_asked_and_got_is_a_picture_that_fits() -> None:
    """Short ones, full ones, ones that gave more, and nothing at all."""
    for counts in ([("a", 10, 3), ("b", 10, 10), ("c$", 10, 25)], []):
        assert asked_and_got(counts, title="mix").startswith(b"\x89PNG")
    assert len(asked_and_got([(f"s{n}", n * 1000, n * 900) for n in range(40)], title="mix")) <= MAX_BYTES
