"""The page in Chromium: `make web-test`. Each test also fails for an error on the console and for a request to anything but files."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from samdiff.model.inference.image_io import save_image
from samdiff.report.config import ReportConfig
from samdiff.report.page import render
from samdiff.report.write import write_report

from ..helpers.browser import chromium
from ..helpers.stores import make_store
from .test_evaluations import write_evaluation
from .test_runs import line, write_run
from .test_write import evil_part, many_images

pytestmark = pytest.mark.browser
OPENS_S = 2.0
"""Seconds of CPU time of the page's thread until a store of 10,000 images shows its first images' names."""


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with chromium() as shown:
        yield shown


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> Path:
    """`all.html` has a store, a run and an evaluation, with images in the page; `beside.html` the same with a folder; `many.html` 10,000 images."""
    folder = tmp_path_factory.mktemp("reports")
    store, run = make_store(folder / "a.zarr"), write_run(folder / "run", run_lines())
    random = np.random.default_rng(0)
    for step in (10, 20):
        sheet = random.integers(0, 256, (12, 36, 3), dtype=np.uint8)
        save_image(sheet, run / "visualization" / "Set5" / "bird" / f"bird_diffusion_{step}.png")
    write_evaluation(folder / "ev", names=tuple("abcdefghijklmn"), size=(150, 200))
    given = [str(store), str(run), str(folder / "ev")]
    write_report(given, ReportConfig(out=folder / "all.html"))
    write_report(given, ReportConfig(out=folder / "beside.html", inline_mb=0))
    (folder / "many.html").write_text(render([many_images(10_000)], title="t", inline={}, folder=""))
    (folder / "evil.html").write_text(render([evil_part()], title="t", inline={}, folder=""))
    return folder


def run_lines() -> list[dict]:
    lines = [
        line(step, stage, loss=1 / step, lr=1e-4, samples_per_s=2.0) for stage in ("rrdb", "diffusion") for step in range(1, 21)
    ]
    return [*lines, line(20, validation="Set5", psnr_y=30.0, ssim_y=0.9, bicubic_psnr_y=28.0, bicubic_ssim_y=0.8)]


@pytest.fixture
def visit(browser, reports):
    """Opens a page of `reports` and waits for its first images. Errors and requests are checked after the test."""
    problems, opened = [], []

    def go(name: str, part: str = "", scheme: str = "light"):
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
        opened.append(page)
        page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                problems.append(request.url) if request.url.partition(":")[0] not in ("file", "data", "blob") else None
            ),
        )
        page.set_default_timeout(120_000)
        page.goto(f"file://{reports / name}")
        page.wait_for_selector("html[data-ready]", state="attached")
        if part:
            page.get_by_role("tab", name=part).click()
        return page

    yield go
    for page in opened:
        page.close()
    assert problems == []


def until(page, expression: str) -> None:
    """Wait until an expression is true. `wait_for_function` evaluates strings inside the page, which its policy forbids."""
    end = time.monotonic() + 120
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(100)


def test_search_sorting_and_pages(visit):
    page = visit("many.html")
    cards, status = page.locator(".card:visible"), page.locator(".pages .status")
    assert cards.count() == 24
    assert status.inner_text() == "1–24 of 10,000 images"
    page.get_by_role("button", name="Next").click()
    assert status.inner_text() == "25–48 of 10,000 images"
    page.get_by_label("Page", exact=True).fill("417")
    page.keyboard.press("Enter")
    assert status.inner_text() == "9,985–10,000 of 10,000 images"
    assert page.get_by_role("button", name="Next").is_disabled()
    page.get_by_label("Search").fill("PHOTOGRAPH-00041")
    assert status.inner_text() == "1–10 of 10 images"
    assert "photograph-000410.png" in cards.first.inner_text()
    page.get_by_label("Search").fill("no such name")
    assert status.inner_text() == "0 images"
    page.get_by_label("Search").fill("")
    page.get_by_label("Show").select_option("skipped")
    assert "too small" in cards.first.inner_text()


def test_ten_thousand_images_open_at_once(browser, reports):
    """CPU time of the page's thread, which is the waiting time on a machine that has nothing else to do."""
    page = browser.new_page()
    page.set_default_timeout(120_000)
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(f"file://{reports / 'many.html'}")
    page.wait_for_selector(".card")
    metrics = {each["name"]: each["value"] for each in client.send("Performance.getMetrics")["metrics"]}
    page.close()
    assert metrics["TaskDuration"] < OPENS_S
    assert metrics["Nodes"] < 3000


@pytest.mark.parametrize("name", ["all.html", "beside.html"])
def test_layers_toggle(visit, name):
    """Images inside the page and beside it: all load, layers are switched on and off, the tile is that of the image."""
    page = visit(name)
    page.locator(".card").nth(0).click()
    dialog = page.get_by_role("dialog")
    layer = {kind: dialog.locator(f"[data-layer={kind}]") for kind in ("masks", "edges", "structure", "numbers", "tiles")}
    until(page, "[...document.querySelectorAll('dialog img')].every((image) => image.complete && image.naturalWidth === 24)")
    assert layer["masks"].is_visible()
    assert not layer["structure"].is_visible()
    dialog.get_by_label("Masks", exact=True).uncheck()
    dialog.get_by_label("E_SAM", exact=True).check()
    dialog.get_by_label("Boundaries", exact=True).check()
    assert not layer["masks"].is_visible()
    assert layer["structure"].is_visible()
    assert layer["edges"].is_visible()
    dialog.get_by_label("Opacity").fill("0.2")
    assert layer["structure"].evaluate("(image) => image.style.opacity") == "0.2"
    dialog.get_by_label("Numbers").focus()
    page.keyboard.press("Space")
    assert layer["numbers"].evaluate("(group) => group.style.display") == ""
    assert dialog.locator(".crops svg").count() == 4
    title = dialog.locator("h2").first
    assert title.inner_text() == "0.png"
    dialog.get_by_role("button", name="Next image").click()
    assert title.inner_text() == "1.png"
    page.keyboard.press("ArrowLeft")
    assert title.inner_text() == "0.png"
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_tiles_are_chosen_by_pointer_and_keyboard(visit):
    page = visit("all.html")
    page.locator(".card").nth(0).click()
    last = page.get_by_role("combobox", name="Tile", exact=True).locator("option").count()
    assert last > 1
    page.get_by_role("button", name=f"Tile {last}").focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("combobox", name="Tile", exact=True).input_value() == str(last - 1)
    assert page.locator(".tile.chosen").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_plots_are_drawn_in_both_schemes(visit, scheme):
    page = visit("all.html", "run", scheme)
    page.wait_for_selector(".js-plotly-plot .scatterlayer .trace", timeout=120_000)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(","))) < 384) == (scheme == "dark")
    ink = "document.querySelector('.js-plotly-plot .xtick text').style.fill"
    before = page.evaluate(ink)
    page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
    until(page, f"{ink} !== {before!r}")


def test_validation_images_over_time(visit):
    page = visit("all.html", "run")
    steps = page.get_by_label("Step of the validation")
    assert page.locator("output").inner_text() == "diffusion, step 20"
    result = page.locator("#part-1 .wipe img").nth(1)
    before = result.get_attribute("src")
    steps.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("output").inner_text() == "diffusion, step 10"
    assert result.get_attribute("src") != before


def test_the_divider_and_the_lens(visit):
    """The range and a drag move the divider; the lens shows the same place of all methods, by pointer and by keyboard."""
    page = visit("all.html", "ev")
    stage, above = page.locator("#part-2 .wipe"), page.locator("#part-2 .wipe img").nth(1)
    clip = lambda: above.evaluate("(image) => image.style.clipPath")  # noqa: E731
    slider = page.get_by_label("position of the divider")
    slider.fill("20")
    assert clip() == "inset(0px 0px 0px 20%)"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert clip() == "inset(0px 0px 0px 20.5%)"
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 40, steps=4)
    page.mouse.up()
    assert float(clip().split()[-1].removesuffix("%)")) == pytest.approx(80, abs=1)
    places = lambda: page.locator("#part-2 .lens").evaluate_all("(all) => all.map((lens) => lens.style.backgroundPosition)")  # noqa: E731
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
    first = places()
    assert len(first) == 5
    assert len(set(first)) == 1
    page.mouse.down()
    page.mouse.up()
    assert "is held" in page.locator("#part-2 .compare .status").inner_text()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.5 * box["height"])
    assert places() == first
    stage.focus()
    page.keyboard.press("ArrowDown")
    assert places() != first
    assert len(set(places())) == 1


def test_images_are_ordered_and_rows_sort(visit):
    """The worst image first: PSNR grows with the letter."""
    page = visit("all.html", "ev")
    part = page.locator("#part-2")
    assert part.locator(".card .name").first.inner_text() == "a"
    assert part.locator(".card").count() == 12
    part.get_by_label("Order").select_option("best")
    assert part.locator(".card .name").first.inner_text() == "n"
    assert part.locator(".view >> xpath=ancestor::section[1] >> h2").first.inner_text() == "n"
    part.get_by_label("Metric").select_option(label="lpips")
    table = part.locator("table.images")
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    table.get_by_role("button", name="psnr_y").click()
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    assert table.locator("tbody tr").first.inner_text().split() == ["set", "n", "samdiff-seed1", "34.000", "0.4000"]
    part.get_by_label("Method").select_option("bicubic")
    assert {row.split()[2] for row in table.locator("tbody tr").all_inner_texts()} == {"bicubic"}
    table.get_by_role("button", name="c", exact=True).click()
    assert part.locator(".compare >> xpath=ancestor::section[1] >> h2").first.inner_text() == "c"
    assert part.locator(".differences img").count() == 4


def test_every_control_has_a_name(visit):
    """For screen readers: a label, an aria-label or a text."""
    page = visit("all.html")
    page.locator(".card").nth(0).click()
    for tab in ("a.zarr", "run", "ev"):
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("input, select, button, [role=img], [role=group], img.first")].filter((each) =>
            !(each.ariaLabel || each.alt || each.labels?.length || each.textContent.trim())).map((each) => each.outerHTML.slice(0, 200))"""
        )
        assert nameless == []
        page.keyboard.press("Escape")
        page.get_by_role("tab", name=tab).click()


def test_tabs_by_keyboard(visit):
    page = visit("all.html")
    page.get_by_role("tab", name="a.zarr").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab", name="run").get_attribute("aria-selected") == "true"
    assert page.get_by_role("tabpanel").count() == 1


def test_hostile_names_stay_text(visit):
    page = visit("evil.html")
    page.on("dialog", lambda dialog: pytest.fail("a name was executed"))
    page.wait_for_selector(".js-plotly-plot .scatterlayer .trace", timeout=120_000)
    assert "<img src=x" in page.locator("h1").inner_text()
    assert page.locator("img").count() == 0


def test_nothing_from_a_network(browser, reports):
    """The policy stops an image, a style and a script from an address, whoever asks for them."""
    page, refused = browser.new_page(), []
    page.set_default_timeout(120_000)
    page.on("console", lambda message: refused.append(message.text))
    page.goto(f"file://{reports / 'many.html'}")
    page.wait_for_selector(".card")
    page.evaluate(
        """() => { const image = new Image(); image.src = "http://127.0.0.1:9/x.png"; document.body.append(image);
        const script = document.createElement("script"); script.textContent = "window.owned = 1"; document.body.append(script); }"""
    )
    page.wait_for_timeout(300)
    assert len([text for text in refused if "Content Security Policy" in text]) == 2
    assert page.evaluate("window.owned") is None
    page.close()
