"""The pages of the repository that stand outside of docs become pages of the site, and links between all of them work.

Whatever else a page links to in the repository is shown by the host of the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

#: Where a page outside of docs stands on the site.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "report-a-vulnerability.md",
    "example_project/README.md": "example-project.md",
}
INSIDE = {page: path for path, page in OUTSIDE.items()}

LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand outside of docs."""
    for path, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point each link at the page of the site, or at the repository."""
    here = INSIDE.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def target(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[1]))
        uri = OUTSIDE.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(uri) is not None:
            return f"]({posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or '.')}"
        return f"]({config.repo_url}/blob/main/{path}" if (ROOT / path).exists() else match[0]

    return LINK.sub(target, markdown)
