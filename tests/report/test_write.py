"""`samdiff report`: which files are written, and which are never touched; hostile names; a page that allows no network."""

import base64
import hashlib
import html.parser
import json
import re

import numpy as np
import pytest

from samdiff.cli import main
from samdiff.errors import ConfigError, SamdiffError
from samdiff.report.config import ReportConfig
from samdiff.report.page import as_script, render
from samdiff.report.parts import Curve, RunPart
from samdiff.report.recognise import EVALUATION, RUN, STORE, recognise
from samdiff.report.write import is_report, write_report

from ..helpers.stores import make_store
from ..test_extras import without
from .test_evaluations import write_evaluation
from .test_runs import line, write_run

EVIL = "</script><img src=x onerror=alert(1)><!-- {{ 7*7 }} \u2028 & \"'"


class Document(html.parser.HTMLParser):
    """The elements of a page, and the content of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.scripts, self.policy, self._inside = [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append((dict(attrs), ""))
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)


def evil_part() -> RunPart:
    pairs = ((EVIL, EVIL),)
    curve = Curve(plot=EVIL, name=EVIL, steps=(1,), values=(1.0,))
    return RunPart(title=EVIL, numbers=pairs, facts=pairs, settings=pairs, notes=(EVIL,), curves=(curve,), images=())


def test_names_are_never_markup():
    text = render([evil_part()], title=EVIL, inline={}, folder="")
    document = Document(text)
    assert "img" not in document.elements
    assert len(document.scripts) == 4
    assert text.count("{{ 7*7 }}") > 5
    assert "49" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", text, flags=re.DOTALL)
    assert json.loads(document.scripts[0][1])["parts"][0]["title"] == EVIL
    assert not set("<>&") & set(as_script(EVIL))


def test_the_policy_allows_its_own_scripts_only():
    """The scripts by their SHA-256, and no address that is a network's."""
    document = Document(render([evil_part()], title="t", inline={}, folder=""))
    rules = dict(rule.split(" ", 1) for rule in document.policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert not re.search(r"https?:|\*|unsafe-eval", document.policy)
    (own,) = [text for attributes, text in document.scripts if "type" not in attributes]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in rules["script-src"]
    assert "unsafe-inline" not in rules["script-src"]
    assert rules["script-src"].count("sha256-") == 2  # and plotly


def test_no_plots_no_plotly():
    part = RunPart(title="t", numbers=(), facts=(), settings=(), notes=(), curves=(), images=())
    assert len(render([part], title="t", inline={}, folder="")) < 100_000


def test_what_a_folder_is(tmp_path):
    store, run = make_store(tmp_path / "a.zarr"), write_run(tmp_path / "run", [])
    write_evaluation(tmp_path / "ev", save=False)
    (tmp_path / "b.zarr.staging").mkdir()
    for place, kind in (
        (store, STORE),
        (store / "zarr.json", STORE),
        (run, RUN),
        (run / "log.jsonl", RUN),
        (tmp_path / "ev", EVALUATION),
    ):
        assert recognise(str(place)).kind == kind
    assert recognise(str(tmp_path / "b.zarr")).kind == recognise("s3://bucket/a.zarr").kind == STORE
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "unfinished.jsonl").write_text("")
    for place, match in (
        (tmp_path / "half", "not finished; run the same"),
        (tmp_path / "no", "no such folder"),
        (tmp_path, "none of them"),
        ("", "empty name"),
    ):
        with pytest.raises(ConfigError, match=match):
            recognise(str(place))


def test_the_page_and_its_folder(tmp_path, capsys):
    """Small images are in the page; larger ones beside it. A second time only with --overwrite, which leaves no old image behind."""
    store, out = make_store(tmp_path / "a.zarr"), tmp_path / "out" / "report.html"
    main_status(["report", str(store), "-o", str(out)], 0)
    assert "report.html, " in capsys.readouterr().out
    assert is_report(out)
    assert [file.name for file in out.parent.iterdir()] == ["report.html"]
    main_status(["report", str(store), "-o", str(out)], 2)
    assert "exists already; give --overwrite" in capsys.readouterr().err
    main_status(["report", str(store), "-o", str(out), "--overwrite", "--inline-mb", "0", "--json"], 0)
    document = json.loads(capsys.readouterr().out)
    assert document["folder"] == str(out.parent / "report_files")
    assert sum(file.stat().st_size for file in (out.parent / "report_files").iterdir()) == document["image_bytes"] > 0
    (out.parent / "report_files" / "mine.txt").write_text("theirs")
    main_status(["report", str(store), "-o", str(out), "--overwrite"], 0)
    assert [file.name for file in (out.parent / "report_files").iterdir()] == ["mine.txt"]


def test_a_file_of_others_stays(tmp_path, capsys):
    store, out = make_store(tmp_path / "a.zarr"), tmp_path / "report.html"
    out.write_text("theirs")
    main_status(["report", str(store), "-o", str(out)], 2)
    assert out.read_text() == "theirs"
    assert not is_report(out)
    main_status(["report", str(store), "-o", str(store / "report.html")], 2)
    assert "lies in the store" in capsys.readouterr().err
    main_status(["report", str(store), "-o", str(tmp_path / "page.pdf")], 2)
    assert "expected a file ending in .html" in capsys.readouterr().err


def test_one_of_several_that_cannot_be_shown_is_skipped(tmp_path, capsys):
    store, run = make_store(tmp_path / "a.zarr"), write_run(tmp_path / "run", [line(1, loss=1.0)])
    (tmp_path / "b.zarr.staging").mkdir()
    (tmp_path / "b.zarr.staging" / "settings.json").write_text("{}")
    out = tmp_path / "report.html"
    main_status(["report", str(tmp_path / "b.zarr"), str(run), str(store), str(store), str(tmp_path / "no"), "-o", str(out)], 3)
    shown = capsys.readouterr().err
    assert "the store is not finished" in shown
    assert "no such folder" in shown
    assert shown.count(f"{tmp_path / 'no'}: ") == 1  # the argument is named once
    parts = json.loads(Document(out.read_text()).scripts[0][1])["parts"]
    assert [part["kind"] for part in parts] == ["run", "store"]
    with pytest.raises(SamdiffError, match="none of the arguments can be shown"):
        write_report([str(tmp_path / "no"), str(tmp_path / "neither")], ReportConfig(out=tmp_path / "b.html"))


@pytest.mark.parametrize("missing", ["jinja2", "plotly"])
def test_without_its_packages(tmp_path, missing):
    store = make_store(tmp_path / "a.zarr")
    done = without([missing], "report", str(store), "-o", str(tmp_path / "r.html"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"samdiff: samdiff report: needs the package {missing}, which is not installed; pip install 'samdiff[report]'"
    )
    assert not (tmp_path / "r.html").exists()


def main_status(words: list[str], status: int) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert (stopped.value.code or 0) == status


def test_ten_thousand_images_are_a_small_page(tmp_path):
    """Names and counts are columns; nothing is made into elements before it is shown."""
    from samdiff.report.parts import StorePart

    part = many_images(10_000)
    assert isinstance(part, StorePart)
    text = render([part], title="t", inline={}, folder="")
    assert len(text) < 3_000_000
    assert len(Document(text).elements) < 100


def many_images(count: int):
    """A store of many images, none of which is drawn."""
    from samdiff.report.parts import StorePart
    from samdiff.report.stores import histogram

    masks = np.random.default_rng(0).integers(0, 300, count)
    return StorePart(
        title="large.zarr", numbers=(("images", f"{count}"),), facts=(), settings=(), notes=(), tile=256, scale=4,
        histograms=(histogram(masks, title="Masks per image", label="masks", of="images"),),
        names=tuple(f"folder-{k % 100:03d}/photograph-{k:06d}.png" for k in range(count)),
        widths=(2040,) * count, heights=(1356,) * count, masks=tuple(masks.tolist()), tiles=(48,) * count,
        skipped={"7": "too small"}, drawn=(),
    )  # fmt: skip
