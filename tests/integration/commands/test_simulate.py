"""`gumlet-bridge simulate` against a receiver that rejects deliveries: its report is correct."""

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
from bridge.devtools.load_generator import ATTEMPTS, LoadGenerator, LoadProfile, LoadReport
from bridge.errors import BridgeError
from bridge.event import canonical, content_id
from bridge.operations.rate_limiter import RateLimiter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CUT = 0
ROOT = Path(__file__).parents[3]


class Receiver:
    """A receiver of webhooks: `answer(n)` is the status for request n, or CUT to close the connection."""

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


def profile_for(receiver: Receiver, count: int = 60, **options: Any) -> LoadProfile:
    """Return a profile with the defaults of these tests."""
    defaults: dict[str, Any] = {
        "url": receiver.url,
        "token": "t",
        "seed": 1,
        "concurrency": 8,
        "retry_after": 0.0,
    }
    return LoadProfile(count=count, **(defaults | options))


async def send(profile: LoadProfile, path: Path | None = None, rate: float | None = None) -> dict[str, Any]:
    """Send a profile and return its report."""
    report_so_far = LoadReport()
    throttle = RateLimiter(1, 1 / rate).acquire if rate else None
    with (path or Path(os.devnull)).open("wb", buffering=0) as file:
        await LoadGenerator(profile, report_so_far, file, throttle).run()
    report_so_far.end()
    return report_so_far.report(profile)


async def invoked(*arguments: object) -> Result:
    """Run the command as a user does, in a thread with a loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, [str(each) for each in arguments])


def expected(profile: LoadProfile, source: str = "default") -> dict[str, list[dict[str, Any]]]:
    """Return the log lines of a completely acknowledged profile, by asset, in order."""
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for asset_id, events in profile.assets():
        for sequence, (event_type, document) in enumerate(events):
            line = {"type": event_type, "asset_id": asset_id, "sequence": sequence}
            lines[asset_id].append(line | {"id": content_id(source, canonical(document))})
    return lines


def listed(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of the acknowledgement log by asset, in the file's order."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in path.read_bytes().splitlines():
        each = orjson.loads(line)
        found[each["asset_id"]].append(each)
    return found


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate the tests from the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("BRIDGE_TOKENS", "BRIDGE_TOKENS_FILE"):
        monkeypatch.delenv(name, raising=False)


async def test_accepting_receiver_gets_each_delivery_once(tmp_path: Path) -> None:
    """Each delivery is sent once, with the token, and logged in order."""
    async with receiving() as receiver:
        profile = profile_for(receiver)
        report = await send(profile, tmp_path / "acknowledged")
    assert (report["sent"], report["acknowledged"], report["unfinished"]) == (60, 60, 0)
    assert listed(tmp_path / "acknowledged") == expected(profile)
    assert len(receiver.accepted) == 60
    assert receiver.headers["x-gumlet-token"] == "t"
    assert receiver.headers["Content-Type"] == "application/json"


async def test_same_seed_same_deliveries() -> None:
    """Two runs of one seed send the same bodies, whatever the concurrency."""
    async with receiving() as receiver:
        await send(profile_for(receiver, concurrency=3))
        first, receiver.accepted = receiver.accepted, []
        await send(profile_for(receiver, concurrency=30))
    assert sorted(first) == sorted(receiver.accepted)


async def test_rejections_are_counted_and_retried(tmp_path: Path) -> None:
    """Rejected and cut deliveries are retried until acknowledged, and counted by kind."""

    def now_and_then(n: int) -> int:
        return 503 if n % 5 == 1 else 429 if n % 11 == 3 else CUT if n % 7 == 2 else 202

    async with receiving(now_and_then) as receiver:
        profile = profile_for(receiver, count=200)
        report = await send(profile, tmp_path / "acknowledged")
    assert report["acknowledged"] == receiver.answers[202] == 200
    assert report["rejected"] == {"429": receiver.answers[429], "503": receiver.answers[503]}
    assert report["connection_errors"] == receiver.answers[CUT]
    assert report["sent"] == receiver.answers.total()
    assert report["given_up"] == 0
    assert listed(tmp_path / "acknowledged") == expected(profile)


async def test_order_of_an_asset_is_kept_under_rejections() -> None:
    """A rejected delivery delays those behind it, so each asset's events arrive in order."""
    async with receiving(lambda n: 503 if n % 2 else 200) as receiver:
        profile = profile_for(receiver, count=100)
        await send(profile)
    accepted: dict[str, list[str]] = defaultdict(list)
    for body in receiver.accepted:
        document = orjson.loads(body)
        accepted[document["asset_id"]].append(document["type"])
    assert accepted == {asset_id: [t for t, _ in events] for asset_id, events in profile.assets()}


async def test_retries_wait_for_the_delay() -> None:
    """A rejected delivery is repeated after the delay, with the same bytes."""
    async with receiving(lambda n: 200 if n else 503) as receiver:
        report = await send(profile_for(receiver, count=1, retry_after=0.2))
    [(first, second)] = receiver.times.values()
    assert second - first > 0.19
    assert report["max_gap_seconds"] > 0.19


async def test_rate_is_kept() -> None:
    """No more is sent than the rate allows, whatever the concurrency."""
    async with receiving() as receiver:
        report = await send(profile_for(receiver, count=21, concurrency=20), rate=100.0)
    assert report["seconds"] > 0.19


async def test_duplicates_are_sent_twice_and_logged_once(tmp_path: Path) -> None:
    """With a share of duplicates that many deliveries come twice, the same ones in every run of a seed."""
    async with receiving() as receiver:
        profile = profile_for(receiver, duplicates=0.3)
        report = await send(profile, tmp_path / "acknowledged")
        first, receiver.accepted = receiver.accepted, []
        await send(profile_for(receiver, duplicates=0.3, concurrency=1))
    assert 0 < report["duplicates"] < 60
    assert (report["acknowledged"], report["unfinished"]) == (60, 0)
    assert report["sent"] == len(first) == 60 + report["duplicates"]
    assert sorted(first) == sorted(receiver.accepted)
    assert listed(tmp_path / "acknowledged") == expected(profile)


async def test_distinct_ids_are_those_that_kafka_will_have() -> None:
    """Deliveries that are sent twice, and equal bodies of an asset, have one id each."""
    async with receiving() as receiver:
        report = await send(profile_for(receiver, count=500, duplicates=0.1))
    ids = {content_id("default", canonical(orjson.loads(body))) for body in receiver.accepted}
    assert report["distinct_ids"] == len(ids) < report["acknowledged"]


async def test_redirect_is_a_rejection() -> None:
    """Only 2xx acknowledges: a redirect is not followed."""
    async with receiving(lambda n: 200 if n else 307) as receiver:
        report = await send(profile_for(receiver, count=1))
    assert report["rejected"] == {"307": 1}


@pytest.mark.parametrize("path", ["/webhooks/gumlet/lessons", "/webhooks/gumlet/lessons/"])
async def test_source_of_the_url_is_part_of_the_id(path: str, tmp_path: Path) -> None:
    """The logged ids are those of the source in the URL."""
    async with receiving() as receiver:
        profile = profile_for(receiver, url=receiver.url.with_path(path))
        await send(profile, tmp_path / "acknowledged")
    assert listed(tmp_path / "acknowledged") == expected(profile, "lessons")


async def test_exit_code_0_and_table_when_all_is_acknowledged(tmp_path: Path) -> None:
    """The command prints a table and ends with 0 when every delivery was acknowledged."""
    async with receiving(lambda n: 200 if n != 4 else 503) as receiver:
        result = await invoked(
            *("--url", receiver.url, "--count", 30, "--seed", 5, "--retry-after", 0.01),
            *("--ack-log", tmp_path / "acknowledged"),
        )
    assert result.exit_code == 0
    assert "30 deliveries, seed 5" in result.stdout
    assert "rejected with 503" in result.stdout
    assert "closed loop" in result.stdout
    assert "x-gumlet-token" not in receiver.headers
    assert listed(tmp_path / "acknowledged") == expected(profile_for(receiver, 30, seed=5))


async def test_exit_code_1_when_deliveries_are_given_up() -> None:
    """A receiver that never accepts gets as many attempts as Gumlet makes; the token is not shown."""
    async with receiving(lambda _: 403) as receiver:
        result = await invoked(
            *("--url", receiver.url, "--count", 2, "--retry-after", 0, "--token", "hidden", "--json")
        )
    report = orjson.loads(result.stdout)
    assert result.exit_code == 1
    assert (report["given_up"], report["sent"], report["acknowledged"]) == (2, 2 * ATTEMPTS, 0)
    assert report["rejected"] == {"403": 2 * ATTEMPTS}
    assert report["latency_ms"] == {"p50": None, "p90": None, "p99": None, "max": None}
    assert receiver.headers["x-gumlet-token"] == "hidden"
    assert "hidden" not in result.output


@pytest.mark.parametrize(
    ("options", "cause"), [((), "none was sent"), (("--token", "hidden"), "it is not one that the bridge accepts")]
)
async def test_wrong_token_ends_the_command_at_once(options: tuple[str, ...], cause: str) -> None:
    """A repetition would not help: the command names the cause and ends before any retry; the token is not shown."""
    async with receiving(lambda _: 401) as receiver:
        result = await invoked("--url", receiver.url, "--count", 2, "--retry-after", 600, *options)
    assert isinstance(result.exception, BridgeError)
    assert str(result.exception) == f"401 from {receiver.url}: {cause}. Fix: set --token to a token of the bridge."
    assert receiver.answers.total() <= 2
    assert "hidden" not in str(result.exception)


async def test_closed_port_counts_as_connection_errors() -> None:
    """An unreachable receiver counts as connection errors, and its deliveries are given up."""
    async with receiving() as receiver:
        pass
    result = await invoked("--url", receiver.url, "--count", 1, "--retry-after", 0, "--json")
    report = orjson.loads(result.stdout)
    assert result.exit_code == 1
    assert (report["connection_errors"], report["given_up"]) == (ATTEMPTS, 1)


async def test_token_option_wins_over_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option wins over the file, and the file over the first of the bridge's own tokens."""
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


async def test_first_token_of_the_bridges_file_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With BRIDGE_TOKENS_FILE the first token of the file is sent."""
    (tmp_path / "tokens").write_text("from-file\nolder\n")
    monkeypatch.setenv("BRIDGE_TOKENS_FILE", str(tmp_path / "tokens"))
    async with receiving() as receiver:
        result = await invoked("--url", receiver.url, "--count", 1)
    assert result.exception is None
    assert receiver.headers["x-gumlet-token"] == "from-file"


async def test_invalid_url_and_unwritable_file_are_reported(tmp_path: Path) -> None:
    """An invalid URL and an unwritable file are reported before anything is sent."""
    result = await invoked("--url", "localhost:8080")
    assert result.exit_code == 2
    result = await invoked("--ack-log", tmp_path / "absent" / "file")
    assert isinstance(result.exception, BridgeError)
    assert "--ack-log" in str(result.exception)


async def test_ctrl_c_prints_the_report(tmp_path: Path) -> None:
    """Ctrl-C ends the command with 130 after its report; the log is complete up to then."""
    reached = asyncio.Event()

    def count(n: int) -> int:
        if n == 100:
            reached.set()
        return 200

    async with receiving(count) as receiver:
        arguments = ["--url", str(receiver.url), "--count", "1000000", "--json", "--ack-log", "list"]
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
