"""What ``make docs`` adds to MkDocs: files of the repository's root, and links for the cross-references of docstrings.

Pages link to each other by their paths in the repository, so that the links also work in a repository browser. The
site's root is ``docs/``. README.md becomes the site's index, CHANGELOG.md and CONTRIBUTING.md become pages, and the
configs become files of the site. The links are rewritten accordingly. The options of the command line come from the
subcommands themselves.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from xcit_dense.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]

PAGES = {"README.md": "index.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
"""Pages in the repository's root, with their paths on the site."""

OPTIONS = "<!-- options of each subcommand -->"
"""The place for the options in a page."""

FILES = ["CITATION.cff", "LICENSE", "configs/**/*.py", "examples/*.py"]
"""Files that pages link to."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of the repository's root to the site."""
    added = dict(PAGES)
    for pattern in FILES:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            added[name] = name
    for name, place in added.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Rewrites links from paths in the repository to paths on the site, and adds the options of subcommands."""
    place = page.file.src_uri
    sources = {site: name for name, site in PAGES.items()}
    source = sources.get(place, f"docs/{place}")

    def rewrite(link: re.Match[str]) -> str:
        target, hash_sign, anchor = link[1].partition("#")
        if not target or ":" in target:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        path = PAGES.get(path, path.removeprefix("docs/"))
        return f"]({posixpath.relpath(path, posixpath.dirname(place) or '.')}{hash_sign}{anchor})"

    markdown = re.sub(r"\]\(([^)\s]+)\)", rewrite, markdown)
    return markdown.replace(OPTIONS, _options()) if OPTIONS in markdown else markdown


def _options() -> str:
    """What ``--help`` of each subcommand prints, as sections of a page."""
    sections = []
    for name in COMMANDS:
        command = [sys.executable, "-m", "xcit_dense", name, "--help"]
        environment = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1"}
        text = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
        sections.append(f"### {name}\n\n```text\n{text}```\n")
    return "\n".join(sections)


class Roles(griffe.Extension):
    """Makes links of the cross-references in docstrings, such as ``:class:`xcit_dense.XCiT```, and code of examples."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites the docstring of an object. An object without a page becomes code without a link."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r":(?:class|func|meth|mod|data|attr):`~?([^`]+)`",
                r'<autoref identifier="\1" optional><code>\1</code></autoref>',
                obj.docstring.value,
            )
            # griffe reads examples as code only in a section that is called "Examples".
            obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
