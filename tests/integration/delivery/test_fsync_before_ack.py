"""The order of the promise, seen from outside: the journal's sync has returned before a 200 is written.

The daemon runs under strace, which sees every system call of every thread. For each 200 there is a write to a
segment of the journal that contains that delivery's mark, then a sync of the log that began later and returned 0, and
only then the write of the answer.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.daemon import Daemon

_LINE = re.compile(r"^(\d+) +([\d.]+) (.*)$")
_MARK = re.compile(r"mark-(\d{6})")


class Traced(NamedTuple):
    """A system call: when it began and returned (line numbers of the trace), and its whole text."""

    began: int
    returned: int
    text: str


def calls(trace: str) -> list[Traced]:
    """Return the finished calls, with the interrupted halves of strace's output joined."""
    found: list[Traced] = []
    unfinished: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(trace.splitlines()):
        match = _LINE.match(line)
        if match is None:
            continue
        thread, _, text = match.groups()
        if text.endswith("<unfinished ...>"):
            unfinished[thread] = number, text.removesuffix("<unfinished ...>")
        elif text.startswith("<... ") and thread in unfinished:
            began, first = unfinished.pop(thread)
            found.append(Traced(began, number, first + text.partition("resumed>")[2]))
        else:
            found.append(Traced(number, number, text))
    return found


@pytest.fixture
def tracer() -> str:
    """Give the tracer; skip, by name, where tracing is impossible."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("tracing is impossible: no strace")
    told = subprocess.run([program, "-f", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if told.returncode != 0:
        pytest.skip(f"tracing is impossible: {told.stderr.strip()}")
    return program


def test_each_200_follows_a_sync_of_its_delivery(tracer: str, tmp_path: Path) -> None:
    """For each acknowledged delivery: journal written, synced, the sync returned, and then the 200."""
    trace_file = tmp_path / "trace"
    daemon = Daemon(tmp_path, "127.0.0.1:1")
    daemon.wrapper = [
        *(tracer, "-D", "-f", "-y", "-ttt", "-s", "65536", "-o", str(trace_file)),
        *("-e", "trace=pwrite64,write,writev,sendto,sendmsg,fdatasync,fsync,read,recvfrom,recvmsg"),
    ]
    count = 120
    with daemon, ThreadPoolExecutor(12) as senders:
        answers = list(senders.map(lambda n: daemon.post(f'{{"m": "mark-{n:06}"}}'.encode()).status, range(count)))
        assert answers == [200] * count
        assert daemon.stop() == 0
    traced = calls(trace_file.read_text(errors="replace"))
    syncs = [
        each
        for each in traced
        if re.match(r"f(data)?sync\(\d+<[^>]*/journal/\d{20}\.log>", each.text) and each.text.rstrip().endswith("= 0")
    ]
    written: dict[str, int] = {}
    socket_of: dict[str, str] = {}
    acknowledged = 0
    for each in traced:
        journal = re.match(r"pwrite64\(\d+<[^>]*/journal/\d{20}\.log>", each.text)
        incoming = re.match(r"(?:read|recvfrom|recvmsg)\(\d+<(?:socket|TCP[^:]*):\[(.*?)\]>", each.text)
        outgoing = re.match(r"(?:write|writev|sendto|sendmsg)\(\d+<(?:socket|TCP[^:]*):\[(.*?)\]>", each.text)
        if journal:
            for mark in _MARK.findall(each.text):
                written.setdefault(mark, each.returned)
        elif incoming:
            for mark in _MARK.findall(each.text):
                socket_of[incoming[1]] = mark
        elif outgoing and "HTTP/1.1 200" in each.text and outgoing[1] in socket_of:
            mark = socket_of.pop(outgoing[1])
            assert mark in written, f"{mark} was acknowledged before it was written"
            assert any(written[mark] <= sync.began and sync.returned < each.began for sync in syncs), (
                f"{mark} was acknowledged before its sync had returned"
            )
            acknowledged += 1
    assert acknowledged == count, f"only {acknowledged} of {count} answers were seen in the trace"
