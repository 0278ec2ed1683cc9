"""What `make docs` adds to the pages of this folder: pages from the root of the repository, and the help of every command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
FROM_ROOT = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages of the site that are files in the root of the repository, where hosts of git look for them."""
HELP_MARK = "<!-- help of every command -->"
_HELP_WIDTH = 100


def page_from_root(text: str) -> str:
    """A file of the root as a page of `docs/`: links to `docs/x.md` become links to `x.md`."""
    return re.sub(r"\]\(docs/", "](", text)


def command_help() -> str:
    """`samdiff COMMAND --help` of every command, as Markdown."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from samdiff.cli import app

    runner = CliRunner(env={"COLUMNS": str(_HELP_WIDTH), "TERMINAL_WIDTH": str(_HELP_WIDTH)})
    parts = []
    for name in getattr(get_command(app), "commands"):  # noqa: B009  # a group; the type says command
        result = runner.invoke(app, [name, "--help"], prog_name="samdiff")
        parts.append(f"### `samdiff {name}`\n\n```text\n{result.output.strip()}\n```\n")
    return "\n".join(parts)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages from the root."""
    from mkdocs.structure.files import File

    for name, source in FROM_ROOT.items():
        files.append(File.generated(config, name, content=page_from_root((ROOT / source).read_text())))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts the help of every command where the page `commands.md` has the mark."""
    return markdown.replace(HELP_MARK, command_help()) if HELP_MARK in markdown else markdown
