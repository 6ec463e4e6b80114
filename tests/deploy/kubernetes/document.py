"""Commands, patches and the table of results in the documents of deploy/.

A `Document` gives out its command blocks as scripts and remembers which were taken, so that the rehearsal can require
that every block was run.
"""

from __future__ import annotations

import re
from pathlib import Path

BLOCK = re.compile(r"^```console\n(.+?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:kubectl|helm) (?:-n \S+ )?\w+ [^`]+)`")
PATCHES = re.compile(r"^```yaml\n(patches:\n.+?)^```$", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"(?<=<!-- tested -->\n).*?(?=<!-- end -->)", re.DOTALL)
CLUSTER_TOOLS = re.compile(r"\b(kubectl|helm)\b")


class Document:
    """A Markdown document with commands for a cluster."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text()
        blocks = [_script(block) for block in BLOCK.findall(self.text)]
        inline = INLINE.findall(BLOCK.sub("", self.text))
        self._unused: list[str] = [script for script in [*blocks, *inline] if CLUSTER_TOOLS.search(script)]
        self.commands: tuple[str, ...] = tuple(self._unused)

    def take(self, words: str) -> str:
        """Return the one command block that contains the words, as a script."""
        (script,) = [each for each in self.commands if words in each]
        if script in self._unused:
            self._unused.remove(script)
        return script

    @property
    def unused(self) -> list[str]:
        """The command blocks that nothing has taken."""
        return list(self._unused)

    @property
    def patches(self) -> list[str]:
        """The examples of patches, as texts that can be appended to a kustomization."""
        return list(map(str, PATCHES.findall(self.text)))

    @property
    def table(self) -> str:
        """The table between the two comments `tested` and `end`."""
        (table,) = TABLE.findall(self.text)
        return str(table)

    def write_table(self, table: str) -> None:
        """Replace the table in the file."""
        self.text = TABLE.sub(lambda _: table, self.text)
        self.path.write_text(self.text)


def _script(block: str) -> str:
    """Return the commands of a console block without their prompts."""
    return "\n".join(line.removeprefix("$ ") for line in block.splitlines())


def rows(table: str) -> list[str]:
    """Return the first column of a table."""
    return [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]
