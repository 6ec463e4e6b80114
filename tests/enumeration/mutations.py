"""`make mutations`: breaks each rule of the journal on purpose, and shows which test notices.

Each mutation is a text patch. It is applied in a copy of the sources, and the named test is run there. Prints a table
in Markdown for tests/README.md. Exits with 1 when a patch no longer applies, a mutation survives its test, or a test
fails without a mutation.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TEST_FAILED = 1
"""pytest's exit code when tests ran and failed; other codes say that they did not run."""


class Mutation(NamedTuple):
    """A rule that is broken, the patch that breaks it, and the test that must fail."""

    rule: str
    file: str
    old: str
    new: str
    test: str

    def apply(self, root: Path) -> None:
        """Patch the file below `root`; the old text must occur exactly once."""
        path = root / "bridge/queue" / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise SystemExit(f"{self.rule}: the patch of {self.file} no longer applies")
        path.write_text(text.replace(self.old, self.new))


MUTATIONS = [
    Mutation(
        "Checksum without the header",
        "frame.py",
        "return zlib.crc32(header[_CHECKED_FROM:HEADER_BYTES], zlib.crc32(_POSITION.pack(segment, offset)))",
        "return zlib.crc32(_POSITION.pack(segment, offset))",
        "test_log_reading.py::test_a_flipped_bit_costs_its_own_frame_only",
    ),
    Mutation(
        "Trust `settled` of a damaged frame",
        "segment.py",
        "            ranges.append(item)\n",
        "            ranges.append(item)\n"
        "            settled = int.from_bytes(segment.read(item[0] + 32, 8), 'little')\n"
        "            last = last and last._replace(state=last.state._replace(settled=settled))\n",
        "test_log_reading.py::test_the_settled_number_of_a_damaged_frame_is_not_used",
    ),
    Mutation(
        "Restart the sequence when everything is settled",
        "log.py",
        "        self._segments = found.segments\n",
        "        self._segments = found.segments\n"
        "        if self.last == self.state.settled:\n"
        "            self.last, self.total, self.state = 0, 0, State()\n",
        "test_log.py::test_settled_segments_are_deleted_and_sequence_numbers_continue",
    ),
    Mutation(
        "Retry the fsync on the same file",
        "log.py",
        "            self._abandon()\n            raise\n        self._offset += size\n",
        "            self._files.fsync(self._descriptor)\n        self._offset += size\n",
        "test_log.py::test_a_failed_commit_abandons_the_segment_and_is_never_read",
    ),
    Mutation(
        "Skip the directory's fsync",
        "log.py",
        "            self._files.fsync_directory(self._directory)\n",
        "",
        "test_log.py::test_a_failed_rotation_keeps_the_segment_in_use",
    ),
    Mutation(
        "Ignore frames' contiguity",
        "log_reader.py",
        "            self._lose(max(self.position, min(frame.first - 1, limit)))\n",
        "            self.position = max(self.position, min(frame.first - 1, limit))\n",
        "test_log_reading.py::test_a_flipped_bit_costs_its_own_frame_only",
    ),
    Mutation(
        "Unlink a segment with unsettled deliveries",
        "log.py",
        "self._segments[1] - 1 <= settled",
        "self._segments[0] - 1 <= settled",
        "test_log.py::test_settled_segments_are_deleted_and_sequence_numbers_continue",
    ),
    Mutation(
        "Settle before parking",
        "journal.py",
        "        topics: dict[str, list[Delivery]] = {}\n",
        "        self.settle(group)\n        topics: dict[str, list[Delivery]] = {}\n",
        "test_journal.py::test_parking_comes_before_settling",
    ),
    Mutation(
        "Acknowledge before the sync",
        "group_commit.py",
        "            group = await self._writer.run(partial(self._main_log.append, deliveries))\n",
        "            for future in self._committing:\n"
        "                future.set_result(None)\n"
        "            group = await self._writer.run(partial(self._main_log.append, deliveries))\n",
        "test_journal_faults.py::test_a_failed_commit_rejects_and_the_next_one_recovers",
    ),
]


def run_tests(root: Path, *tests: str) -> int:
    """Run tests of the queue in a copy of the sources; return pytest's exit code."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += [f"tests/unit/queue/{test}" for test in tests]
    return subprocess.run(
        command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, stdout=subprocess.DEVNULL, check=False
    ).returncode


def main() -> int:
    """Apply each mutation alone, and print the table."""
    survived = False
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name in ("bridge", "tests/unit", "tests/support"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "tests/conftest.py"):
            shutil.copy(ROOT / name, root / name)
        if run_tests(root, *dict.fromkeys(mutation.test for mutation in MUTATIONS)):
            raise SystemExit("the tests fail without a mutation")
        print("| rule broken on purpose | test that fails |\n|---|---|")
        for mutation in MUTATIONS:
            path = root / "bridge/queue" / mutation.file
            original = path.read_text()
            mutation.apply(root)
            caught = run_tests(root, mutation.test) == TEST_FAILED
            path.write_text(original)
            survived |= not caught
            print(f"| {mutation.rule} | {f'`{mutation.test}`' if caught else '**none**'} |", flush=True)
    return int(survived)


if __name__ == "__main__":
    sys.exit(main())
