"""The pages: every link leads somewhere, every page is in the navigation, and what is generated from the code is up to date."""

import importlib.util
import re
import unicodedata
from pathlib import Path

import pytest
import yaml

import samdiff
from samdiff.cli import app
from samdiff.pipeline.shards.schema import stage_table

ROOT = Path(samdiff.__file__).resolve().parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
ROOT_PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "model/weights/README.md")
]


def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(text: str) -> str:
    """Without blocks of code, fenced or indented after an empty line."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return re.sub(r"(?<=\n\n)(?: {4}.*\n)+", "", text)


def links(text: str) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", prose(text)) if not target.startswith("http")]


def anchors(page: Path) -> set[str]:
    """The names that Markdown gives the headings, as Python-Markdown's `toc` makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page.read_text()), flags=re.M)
    plain = [
        unicodedata.normalize("NFKD", re.sub(r"[`*]", "", heading)).encode("ascii", "ignore").decode() for heading in headings
    ]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in plain}


def test_links_are_found_outside_code():
    text = "[a](b.md#c)\n\n    [no](x)\n\n```\n[no](y)\n```\n![i](i.jpg 'title') [w](https://w.org)\n"
    assert links(text) == ["b.md#c", "i.jpg"]


@pytest.mark.parametrize("page", [*ROOT_PAGES, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path):
    for target in links(page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target
        if page.parent == DOCS:
            assert file.resolve().is_relative_to(DOCS), f"{target}: the site holds docs/ only"


def test_pages_from_the_root_link_to_pages_of_the_site():
    made = hooks()
    for source in made.FROM_ROOT.values():
        for target in links(made.page_from_root((ROOT / source).read_text())):
            assert (DOCS / target.partition("#")[0]).is_file(), f"{source}: {target} is not on the site"


def test_every_page_is_in_the_navigation():
    def leaves(node):
        if isinstance(node, str):
            return [node]
        return [leaf for child in (node.values() if isinstance(node, dict) else node) for leaf in leaves(child)]

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    titles = [
        "Get started",
        "Prepare data",
        "Masks",
        "Train",
        "Upscale",
        "Evaluate",
        "Stores",
        "Method",
        "Reference",
        "Contribute",
    ]
    assert [title for entry in navigation for title in entry] == titles
    assert sorted(leaves(navigation)) == sorted([page.name for page in PAGES] + list(hooks().FROM_ROOT))


def test_reference_lists_the_public_names():
    listed = re.findall(r"^::: samdiff\.(\w+)$", (DOCS / "api.md").read_text(), flags=re.M)
    assert sorted(listed) == sorted(samdiff.__all__)


def test_reference_shows_the_stage_table():
    assert stage_table() in (DOCS / "commands.md").read_text(), "docs/commands.md: paste the output of schema.stage_table()"


def test_reference_lists_every_command():
    made, text = hooks(), (DOCS / "commands.md").read_text()
    names = {command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    assert names == set(re.findall(r"^\| `(?:samdiff )?([a-z-]+)", text.partition("## ")[0], flags=re.M))
    assert made.HELP_MARK in text
    assert f"### `samdiff {min(names)}`" in made.command_help()


def test_readme_is_short_and_its_image_small():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    for image in re.findall(r"!\[[^\]]*\]\(([^)\s]+)", text):
        assert (ROOT / image).stat().st_size < 150_000
