"""Relative links in Markdown files lead to existing files and headings. Links to other hosts are not followed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"^ {0,3}(```|~~~).*?^ {0,3}\1|<!--.*?-->", re.DOTALL | re.MULTILINE)
INLINE_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
LINK = re.compile(
    r"\]\(\s*<?([^\s)>]+)>?(?:\s+\"[^\"]*\")?\s*\)"  # [text](target), ![text](target "title")
    r"|^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)"  # [label]: target
    r"|<[^>]*\b(?:href|src|srcset)=\"([^\"\s]+)",
    re.MULTILINE,
)
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.+?)(?:\s+#+)?\s*$", re.MULTILINE)
ANCHOR = re.compile(r"<[^>]*\b(?:id|name)=\"([^\"]+)\"")


def documents() -> list[str]:
    """Return the Markdown files of the repository, or of a copy without git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        return [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.md") if "node_modules" not in path.parts]
    # A template's links are those of the document that is rendered from it.
    names = [name for name in listed.stdout.splitlines() if not name.endswith(".template.md")]
    return [name for name in names if (ROOT / name).is_file()]


def anchors(text: str) -> set[str]:
    """Return the anchors of a document: those that GitHub derives from its headings, and explicit ones."""
    text = CODE.sub("", text)
    found = set(ANCHOR.findall(text))
    for heading in HEADING.findall(text):
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)|<[^>]+>|[`*]", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        name, number = slug, 0
        while name in found:
            number += 1
            name = f"{slug}-{number}"
        found.add(name)
    return found


def broken_links(path: Path) -> list[str]:
    """Return the relative links of a document whose file or anchor does not exist."""
    text = path.read_text()
    broken = []
    for groups in LINK.findall(INLINE_CODE.sub("", CODE.sub("", text))):
        link = "".join(groups)
        target = urlsplit(link)
        if target.scheme or target.netloc:
            continue
        file = path.parent / unquote(target.path) if target.path else path
        if not file.exists():
            broken.append(f"{link}: the file does not exist")
        elif target.fragment and unquote(target.fragment) not in anchors(file.read_text() if file.is_file() else ""):
            broken.append(f"{link}: {file.name} has no such heading")
    return broken


@pytest.mark.parametrize("document", documents())
def test_relative_links_lead_to_existing_files_and_headings(document: str) -> None:
    """Each document of the repository."""
    assert broken_links(ROOT / document) == []


@pytest.mark.parametrize(
    "text",
    [
        "[other](other.md)",
        "![picture](images/a.png)",
        '[titled](missing.md "title")',
        "[label]: missing.md",
        '<img src="missing.png">',
        "[heading](#missing)",
        "[heading](page.md#missing-heading)",
        "[twice](#two-words-2)",
        "[in code only](#in-code)",
    ],
)
def test_links_to_missing_files_and_headings_are_reported(tmp_path: Path, text: str) -> None:
    """Each form of a link is read."""
    page = tmp_path / "page.md"
    page.write_text(f"# Two words\n\n## Two words\n\n```\n# In code\n```\n\n{text}\n")
    assert len(broken_links(page)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "[page](page.md#two-words-1)",
        "[same page](#two-words)",
        "[folder](../)",
        '[by its id](#here) <a id="here"></a>',
        "[punctuation](#what-is-this-a-heading-with-code)",
        "[elsewhere](https://example.com/missing) <user@example.com>",
        "`[in code](missing.md)` and ``[x](missing.md) ` ``",
        "```\n[in code](missing.md)\n```",
    ],
)
def test_links_that_lead_somewhere_are_accepted(tmp_path: Path, text: str) -> None:
    """Code is not read, and links to other hosts are not followed."""
    page = tmp_path / "page.md"
    page.write_text(f"# Two words\n\n## Two words\n\n# What is *this*? A heading: with `code`\n\n{text}\n")
    assert broken_links(page) == []
