"""Prose check: reports banned words of prose.toml in documents, docstrings, comments, messages and descriptions.

`python -m tests.checks.prose [PATH ...]` checks the files below the paths (default: all files in git), prints each hit
with its suggestion, and exits with 1 when there is one.
"""

from __future__ import annotations

import functools
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

WORDS = Path(__file__).with_name("prose.toml")
PROSE = (".md", ".yaml", ".yml", ".toml", ".service", ".html", ".json", "Makefile", "Dockerfile", "run")
EXCLUDED = re.compile(r"\.lock$|package.*\.json|schemas/examples/|tests/checks/.*prose\.|grafana/.*\.json|/static/")
CODE = re.compile(r"`[^`]*`|\{[^{}]*\}|https?://\S+")


@functools.cache
def banned_words() -> list[tuple[re.Pattern[str], str]]:
    """Return each banned pattern with its suggestion."""
    words = tomllib.loads(WORDS.read_text())["words"]
    return [(re.compile(rf"(?<![\w-])(?:{word})(?![\w-])", re.IGNORECASE), advice) for word, advice in words.items()]


def prose(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that hold prose: of Python its comments and the strings of more than one word, else all lines."""
    if not name.endswith(".py"):
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        text_token = tokenize.tok_name[token.type] in ("STRING", "FSTRING_MIDDLE") and " " in token.string
        if text_token or token.type == tokenize.COMMENT:
            yield from enumerate(token.string.splitlines(), token.start[0])


def findings(name: str, text: str) -> list[str]:
    """Return one message for each banned word."""
    return [
        f'{name}:{number}: "{hit[0]}": {advice}'
        for number, line in prose(name, text)
        for pattern, advice in banned_words()
        for hit in pattern.finditer(CODE.sub("``", line))
    ]


def main() -> None:
    """Check the files of the arguments."""
    tracked = subprocess.run(["git", "ls-files", *sys.argv[1:]], capture_output=True, text=True, check=True).stdout
    names = [name for name in tracked.split() if name.endswith((".py", *PROSE)) and not EXCLUDED.search(name)]
    found = [finding for name in names for finding in findings(name, Path(name).read_text())]
    print("\n".join(found))
    sys.exit(f"{len(found)} findings in {len(names)} files" if found else 0)


if __name__ == "__main__":
    main()
