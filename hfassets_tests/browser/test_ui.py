"""The web UI as a person uses it, in a real browser; what it looked like is kept in build/screenshots."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from hfassets_tests.dagster_service import CHAIN, Service, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
WIDTH, HEIGHT = 1440, 810
PATIENCE_MS = 90_000
KEY = "duorc:SelfRC"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium of the system."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    """A window that has never been here before; addresses are relative to the web UI's."""
    context = browser.new_context(
        base_url=service.url, viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=2, timezone_id="UTC"
    )
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    yield context.new_page()
    context.close()


def keep(page: Page, name: str) -> None:
    """Keep a picture of the window as a build product."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")


def place(shown: Locator) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what is shown, in the window's pixels."""
    box = shown.bounding_box()
    assert box is not None
    return box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]


@pytest.fixture(scope="module")
def inventory(service: Service) -> None:
    """The inventory of the cache is taken, so that every asset is made."""
    run = service.launch(["hub_cache_inventory"], hub_cache_inventory={"verify": True})
    assert service.outcome(run) == "SUCCESS"


@pytest.mark.usefixtures("inventory")
def test_lineage_shows_the_chain(page: Page) -> None:
    """The lineage has the chain from left to right, every partition made and every check passed."""
    # With the group of recipes behind the chain: in a smaller window nodes are drawn without their numbers.
    width, height = 2400, 1200
    page.set_viewport_size({"width": width, "height": height})
    page.goto("/asset-groups?expanded=global%40global%3Ahub%2Cglobal%40global%3Aintegrity")
    page.get_by_role("button", name="Hide navigation").click()
    graph = page.locator("svg").filter(has_text="hub_snapshot")
    nodes = [graph.get_by_text(asset, exact=True).first for asset in CHAIN]
    for node in nodes:
        expect(node).to_be_visible()
    expect(graph.get_by_text("9 partitions")).to_have_count(3)
    expect(graph.get_by_text("100% filled")).to_have_count(3)
    expect(graph.get_by_text(re.compile(r"^(\d) / \1 Passed$"))).to_have_count(5)
    keep(page, "lineage-of-all")
    places = [place(node) for node in nodes]
    assert [left for left, *_ in places] == sorted(left for left, *_ in places)
    assert all(left > 0 and right < width and top > 0 and bottom < height for left, top, right, bottom in places)


@pytest.mark.usefixtures("inventory")
def test_lineage_of_the_group(page: Page) -> None:
    """The page of the hub group shows its lineage at once; its picture is the one for the README."""
    page.set_viewport_size({"width": 1280, "height": 640})
    page.goto("/locations/hfassets/asset-groups/hub")
    page.get_by_role("button", name="Hide navigation").click()
    graph = page.locator("svg").filter(has_text="hub_snapshot")
    expect(graph.get_by_text("100% filled")).to_have_count(3)
    expect(graph.get_by_text(re.compile(r"^(\d) / \1 Passed$"))).to_have_count(4)
    keep(page, "lineage")


def test_partition_is_materialised_by_hand(page: Page, service: Service) -> None:
    """Choosing a partition, «Materialize…» and «Launch 1 run» make a run of that partition, which succeeds."""
    before = {run["runId"] for run in service.runs()}
    page.goto("/assets/prepared_dataset?view=partitions")
    page.get_by_text(KEY, exact=True).first.click()
    expect(page.get_by_text("Materialized", exact=True).first).to_be_visible()
    page.get_by_role("button", name="Materialize…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("1 partition", exact=True)).to_be_visible()
    expect(dialog.get_by_text(KEY).first).to_be_visible()
    keep(page, "materialise")
    dialog.get_by_role("button", name="Launch 1 run").click()
    launched = wait_for("the run", lambda: [run for run in service.runs() if run["runId"] not in before])
    (run,) = launched
    assert {"key": "dagster/partition", "value": KEY} in run["tags"]
    assert service.outcome(run["runId"]) == "SUCCESS"
    page.goto(f"/runs/{run['runId']}")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    expect(page.get_by_text("RUN_SUCCESS")).to_be_visible()
    assert not page.get_by_text("did not yield").count()
    keep(page, "run")


def test_picture_is_drawn(page: Page) -> None:
    """The metadata of a partition has a picture behind «Show Markdown», and the rows of each split as a table."""
    page.goto(f"/assets/prepared_dataset?view=partitions&partition={KEY}")
    expect(page.get_by_role("cell", name="3,262").first).to_be_visible()
    keep(page, "partition")
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.get_by_role("dialog").locator("img")
    expect(picture).to_be_visible()
    assert str(picture.get_attribute("src")).startswith("data:image/png;base64,")
    wait_for("the picture", lambda: picture.evaluate("image => image.complete && image.naturalWidth") > 400)
    keep(page, "plot")


def test_checks_are_shown_as_passed(page: Page) -> None:
    """The checks tab has every check of the asset, passed, with a status for each partition."""
    page.goto("/assets/prepared_dataset?view=checks")
    for check in ("files_intact", "rows_as_declared"):
        page.get_by_text(check, exact=True).first.click()
        expect(page.get_by_text("Passed", exact=True).first).to_be_visible()
    keep(page, "checks")
    page.get_by_role("tab", name="Partitions").last.click()
    expect(page.get_by_text("Passed (9)")).to_be_visible()
    expect(page.get_by_text("Missing (0)")).to_be_visible()
    keep(page, "check-partitions")


def test_partition_counts_are_right(page: Page) -> None:
    """The partitions page counts what is there: all materialised, none failed, none missing."""
    page.goto("/assets/verified_hub_cache?view=partitions")
    expect(page.get_by_text("Materialized (9)")).to_be_visible()
    for nothing in ("Failed (0)", "Missing (0)"):
        expect(page.get_by_text(nothing)).to_be_visible()
    keep(page, "partitions")


def test_a_shard_set_is_a_page_to_look_at(page: Page, service: Service) -> None:
    """Rows, bytes, destination and parts of a C4 shard set; its histogram; its first rows as a table."""
    assert service.outcome(service.launch(["c4_shards"], "c4-2k")) == "SUCCESS"
    page.set_viewport_size({"width": WIDTH, "height": 1200})
    page.goto("/assets/c4_shards?view=partitions&partition=c4-2k")
    folder = service.home.root / "data" / "c4" / "c4-2k"
    size = sum(path.stat().st_size for path in folder.glob("*.jsonl"))
    for shown in ("2000", str(size), str(folder), "c4_train_2000_part004.jsonl"):
        expect(page.get_by_role("cell", name=shown, exact=True).first).to_be_visible()
    keep(page, "c4")
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.get_by_role("dialog").locator("img")
    expect(picture).to_be_visible()
    wait_for("the picture", lambda: picture.evaluate("image => image.complete && image.naturalWidth") > 400)
    keep(page, "c4-lengths")
    page.keyboard.press("Escape")
    page.get_by_text("[Show Markdown]").nth(1).click()
    expect(page.get_by_role("dialog").get_by_role("row")).to_have_count(6)
    keep(page, "c4-first-rows")


def test_a_file_of_a_mix_shows_what_became_of_its_rows(service: Service, page: Page) -> None:
    """The page of a source's partition: rows, licence of the data, the lengths as a picture, the first rows."""
    key = "student/math_reasoning/gsm8k"
    assert service.outcome(service.launch(["distillation_file"], key)) == "SUCCESS"
    page.set_viewport_size({"width": WIDTH, "height": 1200})
    page.goto(f"/assets/distillation_file?view=partitions&partition={quote(key, safe='')}")
    for shown in ("45", "mit; commercial use: yes", "openai/gsm8k"):
        expect(page.get_by_role("cell", name=shown, exact=True).first).to_be_visible()
    keep(page, "mix")
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.get_by_role("dialog").locator("img")
    expect(picture).to_be_visible()
    wait_for("the picture", lambda: picture.evaluate("image => image.complete && image.naturalWidth") > 400)
    page.keyboard.press("Escape")
    # A small table, like that of what became of the rows, stands on the page itself.
    page.get_by_text("[Show Markdown]").nth(1).click()
    expect(page.get_by_role("dialog").get_by_role("row")).to_have_count(6)
    keep(page, "mix-first-rows")


def test_a_students_rows_are_a_page_to_look_at(service: Service, page: Page) -> None:
    """How full they are, the tokens of each source, how long documents and rows are."""
    key = "student/math_reasoning/gsm8k"
    assert service.outcome(service.launch(["distillation_file", "distillation_tokens"], key)) == "SUCCESS"
    page.set_viewport_size({"width": WIDTH, "height": 1200})
    page.goto(f"/assets/distillation_tokens?view=partitions&partition={quote(key, safe='')}")
    expect(page.get_by_role("cell", name="best_fit", exact=True).first).to_be_visible()
    expect(page.get_by_role("cell", name="fill rate", exact=True).first).to_be_visible()
    keep(page, "student")
    for name in ("tokens per source", "document lengths", "row contents"):
        page.get_by_role("row").filter(has_text=name).get_by_text("[Show Markdown]").first.click()
        dialog = page.get_by_role("dialog").filter(has_text=name)
        expect(dialog.locator("img[src^='data:image/png']")).to_be_visible()
        keep(page, f"student-{name.replace(' ', '-')}")
        dialog.get_by_role("button", name="Close").click()
        expect(dialog).to_have_count(0)


def test_text_becomes_rows_and_one_sees_how(service: Service, page: Page) -> None:
    """The stages of MDS from left to right; tokens as a plot over partitions; the lengths of rows as a picture."""
    stages = ["text_mds", "tokenized_mds", "chunked_mds", "sampled_mds"]
    assert service.outcome(service.launch(stages, "math")) == "SUCCESS"
    page.set_viewport_size({"width": 1700, "height": 900})
    page.goto("/locations/hfassets/asset-groups/mds/lineage")
    page.get_by_role("button", name="Hide navigation").click()
    graph = page.locator("svg").filter(has_text="chunked_mds")
    nodes = [graph.get_by_text(asset, exact=True).first for asset in (*stages, "training_mds")]
    for node in nodes:
        expect(node).to_be_visible()
    expect(graph.get_by_text("Loading…")).to_have_count(0)
    keep(page, "mds-lineage")
    lefts = [place(node)[0] for node in nodes]
    assert lefts == sorted(set(lefts))
    page.goto("/assets/chunked_mds?view=overview")
    page.get_by_text("Plots", exact=True).click()
    expect(page.get_by_text("tokens", exact=True).first).to_be_visible()
    expect(page.locator("canvas").first).to_be_visible()
    keep(page, "mds-plots")
    page.goto("/assets/chunked_mds?view=partitions&partition=math")
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.get_by_role("dialog").locator("img").first
    expect(picture).to_be_visible()
    wait_for("the picture", lambda: picture.evaluate("image => image.complete && image.naturalWidth") > 400)
    keep(page, "mds-lengths")


def test_a_staging_recipe_says_what_it_has_and_how_it_is_staged(service: Service, page: Page) -> None:
    """Files, bytes, tokens and the command stand on the page of its partition; the splits are a picture."""
    chain = ["hub_snapshot", "verified_hub_cache", "prepared_dataset"]
    assert service.outcome(service.launch(chain, "gsm8k:main")) == "SUCCESS"
    assert service.outcome(service.launch(["preprocessed_dataset"], "gsm8k-256")) == "SUCCESS"
    page.set_viewport_size({"width": WIDTH, "height": 1300})
    page.goto("/assets/preprocessed_dataset?view=partitions&partition=gsm8k-256")
    for name in ("files", "bytes", "tokens", "tokens per row"):
        expect(page.get_by_role("cell", name=name, exact=True).first).to_be_visible()
    expect(page.get_by_text("hfassets stage gsm8k-256 --to '$SLURM_TMPDIR/data'").first).to_be_visible()
    keep(page, "staging-recipe")
    page.get_by_role("row").filter(has_text="per split").get_by_text("[Show Markdown]").first.click()
    expect(page.get_by_role("dialog").locator("img[src^='data:image/png']")).to_be_visible()
    keep(page, "staging-splits")
