"""`gumlet-bridge simulate` against a receiver that refuses: what it says is what happened."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiohttp import web
from typer.testing import CliRunner, Result
from yarl import URL

from bridge.cli.simulate import app
from bridge.devtools.load_generator import ATTEMPTS, LoadReport, Plan, Sender
from bridge.errors import BridgeError
from bridge.event import canonical, content_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CUT = 0
ROOT = Path(__file__).parents[2]


class Receiver:
    """A webhook's receiver that answers as told: `answer(n)` is the n-th request's status, or CUT."""

    def __init__(self, answer: Callable[[int], int]) -> None:
        self._answer = answer
        self.url = URL()
        self.answers: Counter[int] = Counter()
        self.accepted: list[bytes] = []
        self.times: dict[bytes, list[float]] = defaultdict(list)
        self.headers: dict[str, str] = {}

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one delivery."""
        body = await request.read()
        self.times[body].append(asyncio.get_running_loop().time())
        self.headers = dict(request.headers)
        status = self._answer(self.answers.total())
        self.answers[status] += 1
        if status == CUT:
            assert request.transport is not None
            request.transport.close()
        elif status < 300:
            self.accepted.append(body)
        return web.Response(status=status or 500)


@asynccontextmanager
async def receiving(answer: Callable[[int], int] = lambda _: 200) -> AsyncIterator[Receiver]:
    """Run a receiver on a free port."""
    receiver = Receiver(answer)
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        receiver.url = URL(f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks/gumlet")
        yield receiver
    finally:
        await runner.cleanup()


def planned(receiver: Receiver, count: int = 60, **options: Any) -> Plan:
    """Return a plan with this file's usual figures."""
    defaults: dict[str, Any] = {
        "url": receiver.url,
        "token": "t",
        "seed": 1,
        "concurrency": 8,
        "retry_after": 0.0,
    }
    return Plan(count=count, **(defaults | options))


async def sent(plan: Plan, path: Path | None = None) -> dict[str, Any]:
    """Send a plan and return its report."""
    tally = LoadReport()
    with (path or Path(os.devnull)).open("wb", buffering=0) as file:
        await Sender(plan, tally, file).run()
    tally.end()
    return tally.report(plan)


async def invoked(*arguments: object) -> Result:
    """Run the command as a user does, in a thread with a loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, [str(each) for each in arguments])


def expected(plan: Plan, source: str = "default") -> dict[str, list[dict[str, Any]]]:
    """Return the lines that a wholly acknowledged plan must leave, by asset, in order."""
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for asset_id, events in plan.assets():
        for sequence, (event_type, document) in enumerate(events):
            line = {"type": event_type, "asset_id": asset_id, "sequence": sequence}
            lines[asset_id].append(line | {"id": content_id(source, canonical(document))})
    return lines


def listed(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what the acknowledged file says, by asset, in the file's order."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in path.read_bytes().splitlines():
        each = orjson.loads(line)
        found[each["asset_id"]].append(each)
    return found


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the environment of whoever runs the tests out of them."""
    monkeypatch.chdir(tmp_path)
    for name in ("BRIDGE_TOKENS", "BRIDGE_TOKENS_FILE"):
        monkeypatch.delenv(name, raising=False)


async def test_everything_is_acknowledged(tmp_path: Path) -> None:
    """To a receiver that takes everything each delivery is sent once, with the token, and listed in order."""
    async with receiving() as receiver:
        plan = planned(receiver)
        report = await sent(plan, tmp_path / "acknowledged")
    assert (report["sent"], report["acknowledged"], report["unfinished"]) == (60, 60, 0)
    assert listed(tmp_path / "acknowledged") == expected(plan)
    assert len(receiver.accepted) == 60
    assert receiver.headers["x-gumlet-token"] == "t"
    assert receiver.headers["Content-Type"] == "application/json"


async def test_same_seed_same_deliveries() -> None:
    """Two runs of one seed send the same bodies, however many assets are on their way at a time."""
    async with receiving() as receiver:
        await sent(planned(receiver, concurrency=3))
        first, receiver.accepted = receiver.accepted, []
        await sent(planned(receiver, concurrency=30))
    assert sorted(first) == sorted(receiver.accepted)


async def test_refusals_are_counted_and_retried(tmp_path: Path) -> None:
    """Refused and cut deliveries are tried again until acknowledged, and counted as what they were."""

    def now_and_then(n: int) -> int:
        return 503 if n % 5 == 1 else 429 if n % 11 == 3 else CUT if n % 7 == 2 else 202

    async with receiving(now_and_then) as receiver:
        plan = planned(receiver, count=200)
        report = await sent(plan, tmp_path / "acknowledged")
    assert report["acknowledged"] == receiver.answers[202] == 200
    assert report["refused"] == {"429": receiver.answers[429], "503": receiver.answers[503]}
    assert report["connection_errors"] == receiver.answers[CUT]
    assert report["sent"] == receiver.answers.total()
    assert report["given_up"] == 0
    assert listed(tmp_path / "acknowledged") == expected(plan)


async def test_an_assets_order_survives_refusals() -> None:
    """A refused delivery holds up those behind it: an asset is heard in the order of its life."""
    async with receiving(lambda n: 503 if n % 2 else 200) as receiver:
        plan = planned(receiver, count=100)
        await sent(plan)
    accepted: dict[str, list[str]] = defaultdict(list)
    for body in receiver.accepted:
        document = orjson.loads(body)
        accepted[document["asset_id"]].append(document["type"])
    assert accepted == {asset_id: [t for t, _ in events] for asset_id, events in plan.assets()}


async def test_retries_wait() -> None:
    """A refused delivery comes again after the delay, not before, with the same bytes."""
    async with receiving(lambda n: 200 if n else 503) as receiver:
        report = await sent(planned(receiver, count=1, retry_after=0.2))
    [(first, second)] = receiver.times.values()
    assert second - first > 0.19
    assert report["longest_silence_seconds"] > 0.19


async def test_rate_is_kept() -> None:
    """No more is sent than the rate allows, whatever the concurrency."""
    async with receiving() as receiver:
        report = await sent(planned(receiver, count=21, rate=100.0, concurrency=20))
    assert report["seconds"] > 0.19


async def test_a_redirect_is_a_refusal() -> None:
    """Only 2xx acknowledges: a redirect is not followed."""
    async with receiving(lambda n: 200 if n else 307) as receiver:
        report = await sent(planned(receiver, count=1))
    assert report["refused"] == {"307": 1}


@pytest.mark.parametrize("path", ["/webhooks/gumlet/lessons", "/webhooks/gumlet/lessons/"])
async def test_the_urls_source_is_in_the_id(path: str, tmp_path: Path) -> None:
    """The ids listed are those of the source that the URL names."""
    async with receiving() as receiver:
        plan = planned(receiver, url=receiver.url.with_path(path))
        await sent(plan, tmp_path / "acknowledged")
    assert listed(tmp_path / "acknowledged") == expected(plan, "lessons")


async def test_exit_0_and_the_tables_figures(tmp_path: Path) -> None:
    """The command prints a table for people and ends with 0 when everything was acknowledged."""
    async with receiving(lambda n: 200 if n != 4 else 503) as receiver:
        result = await invoked(
            *("--url", receiver.url, "--count", 30, "--seed", 5, "--retry-after", 0.01),
            *("--acknowledged", tmp_path / "acknowledged"),
        )
    assert result.exit_code == 0
    assert "30 deliveries, seed 5" in result.stdout
    assert "refused with 503" in result.stdout
    assert "closed loop" in result.stdout
    assert "x-gumlet-token" not in receiver.headers
    assert listed(tmp_path / "acknowledged") == expected(planned(receiver, 30, seed=5))


async def test_exit_1_when_given_up() -> None:
    """A receiver that never accepts is tried as often as Gumlet tries; the token is not shown."""
    async with receiving(lambda _: 401) as receiver:
        result = await invoked(
            *("--url", receiver.url, "--count", 2, "--retry-after", 0, "--token", "hidden", "--json")
        )
    report = orjson.loads(result.stdout)
    assert result.exit_code == 1
    assert (report["given_up"], report["sent"], report["acknowledged"]) == (2, 2 * ATTEMPTS, 0)
    assert report["refused"] == {"401": 2 * ATTEMPTS}
    assert report["latency_ms"] == {"p50": None, "p90": None, "p99": None, "max": None}
    assert receiver.headers["x-gumlet-token"] == "hidden"
    assert "hidden" not in result.output


async def test_nobody_listens() -> None:
    """A receiver that is away counts as connection errors, and its deliveries are given up in the end."""
    async with receiving() as receiver:
        pass
    result = await invoked("--url", receiver.url, "--count", 1, "--retry-after", 0, "--json")
    report = orjson.loads(result.stdout)
    assert result.exit_code == 1
    assert (report["connection_errors"], report["given_up"]) == (ATTEMPTS, 1)


async def test_the_tokens_option_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option wins over the file, the file over the bridge's own tokens, of which the first is taken."""
    file = tmp_path / "tokens"
    file.write_text("# the newest first\nfrom-file\nolder\n")
    monkeypatch.setenv("BRIDGE_TOKENS", "from-environment,older")
    async with receiving() as receiver:
        for options, expected_token in [
            ((), "from-environment"),
            (("--token-file", file), "from-file"),
            (("--token-file", file, "--token", "from-option"), "from-option"),
        ]:
            await invoked("--url", receiver.url, "--count", 1, *options)
            assert receiver.headers["x-gumlet-token"] == expected_token


async def test_the_bridges_tokens_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the bridge reads its tokens from a file, the first of them is sent."""
    (tmp_path / "tokens").write_text("from-file\nolder\n")
    monkeypatch.setenv("BRIDGE_TOKENS_FILE", str(tmp_path / "tokens"))
    async with receiving() as receiver:
        result = await invoked("--url", receiver.url, "--count", 1)
    assert result.exception is None
    assert receiver.headers["x-gumlet-token"] == "from-file"


async def test_mistakes_are_told(tmp_path: Path) -> None:
    """A URL that is none, and a file that cannot be written, are named before anything is sent."""
    result = await invoked("--url", "localhost:8080")
    assert result.exit_code == 2
    result = await invoked("--acknowledged", tmp_path / "absent" / "file")
    assert isinstance(result.exception, BridgeError)
    assert "--acknowledged" in str(result.exception)


async def test_ctrl_c_reports_what_was_done(tmp_path: Path) -> None:
    """Ctrl-C ends the command with 130 after the report of what was done; the list is complete up to then."""
    reached = asyncio.Event()

    def count(n: int) -> int:
        if n == 100:
            reached.set()
        return 200

    async with receiving(count) as receiver:
        arguments = ["--url", str(receiver.url), "--count", "1000000", "--json", "--acknowledged", "list"]
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-c",
                "from bridge.cli.simulate import app; app()",
            ),
            *arguments,
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
        )
        await reached.wait()
        process.send_signal(signal.SIGINT)
        output, _ = await process.communicate()
    report = orjson.loads(output)
    assert process.returncode == 130
    assert 0 < report["acknowledged"] <= len(receiver.accepted)
    assert report["unfinished"] == 1_000_000 - report["acknowledged"]
    assert sum(map(len, listed(tmp_path / "list").values())) == report["acknowledged"]
