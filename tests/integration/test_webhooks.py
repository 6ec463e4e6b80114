"""`gumlet-bridge webhooks` and Gumlet's API, against the simulated Gumlet and with Gumlet's own SDK as a witness."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from gumlet import AsyncGumlet
from gumlet.types import VideoAssetStatusWebhookEvent
from pydantic import SecretStr

from bridge.config.sections import GumletSettings
from bridge.devtools.simulated_assets import WORKSPACES, lives
from bridge.errors import BridgeError
from bridge.operations.gumlet_api import gumlet_api
from tests.support.cli import bridge
from tests.support.daemon import BRIDGE, environment
from tests.support.mock_gumlet import API_KEY, gumlet

URL = "http://127.0.0.1:9/webhooks/gumlet/films"
TOKEN = "the-token-of-this-test"
SUBSCRIBE = ("webhooks", "subscribe", "--url", URL, "--source", WORKSPACES[0])


async def listed(settings: dict[str, object]) -> list[dict[str, Any]]:
    """Return what `gumlet-bridge webhooks list` prints."""
    ran = await bridge("webhooks", "list", tokens=TOKEN, **settings)
    assert ran.code == 0, ran.err
    return ran.lines


async def test_subscribe_shows_asks_and_is_idempotent() -> None:
    """A dry run sends nothing; the second subscription of one URL and its sources makes no second webhook."""
    async with gumlet() as (_, settings):
        dry = await bridge(*SUBSCRIBE, "--dry-run", tokens=TOKEN, **settings)
        assert dry.code == 0, dry.err
        assert URL in dry.err
        assert await listed(settings) == []
        for _ in range(2):
            ran = await bridge(*SUBSCRIBE, "--yes", tokens=TOKEN, **settings)
            assert ran.code == 0, ran.err
        (webhook,) = await listed(settings)
        assert (webhook["url"], webhook["sources"]) == (URL, [WORKSPACES[0]])
        assert (webhook["triggers"], webhook["token"]) == (["status"], "the bridge's")
        rotated = await bridge(*SUBSCRIBE, "--yes", tokens="another-token", **settings)
        assert rotated.code == 0, rotated.err
        (webhook,) = await listed(settings)
        assert webhook["token"] == "another"
        assert all(TOKEN not in ran.out + ran.err for ran in (dry, rotated))


async def test_of_a_tokens_file_the_first_that_has_not_ended_is_sent(tmp_path: Path) -> None:
    """A token's name and end are no part of it, and one that has ended is not given to Gumlet."""
    file = tmp_path / "tokens"
    file.write_text(f"ended name=old expires=2020-01-01\n{TOKEN} name=new expires=2999-01-01\n")
    async with gumlet() as (_, settings):
        ran = await bridge(*SUBSCRIBE, "--yes", tokens_file=file, **settings)
        assert ran.code == 0, ran.err
        (webhook,) = await listed(settings)
        assert webhook["token"] == "the bridge's"


async def test_update_delete_history() -> None:
    """A webhook's parts change one by one, it goes when asked to, and what became of its deliveries is shown."""
    async with gumlet(retry_interval=0.001) as (simulated, settings):
        everything = [part for workspace in WORKSPACES for part in ("--source", workspace)]
        await bridge("webhooks", "subscribe", "--url", URL, *everything, "--yes", tokens=TOKEN, **settings)
        (webhook,) = await listed(settings)
        await simulated.live(2)
        history = await bridge("webhooks", "history", webhook["id"], "--status", "failed", **settings)
        types = [event for asset, _ in zip(lives(1), range(2), strict=False) for event in asset.types]
        assert [line["event"] for line in history.lines] == types
        changed = await bridge(
            "webhooks", "update", webhook["id"], "--trigger", "video.status.ready", "--yes", **settings
        )
        assert changed.code == 0, changed.err
        assert (await listed(settings))[0] == webhook | {"triggers": ["video.status.ready"]}
        gone = await bridge("webhooks", "delete", webhook["id"], "--yes", **settings)
        assert gone.code == 0, gone.err
        assert await listed(settings) == []
        again = await bridge("webhooks", "delete", webhook["id"], "--yes", **settings)
        assert again.code == 1
        assert "gumlet-bridge webhooks list" in again.err


async def test_what_to_do_without_a_key_with_a_wrong_one_and_without_gumlet() -> None:
    """Each says what is wrong and what to set, in plain words, and shows no key."""
    none = await bridge("webhooks", "list")
    assert none.code == 78
    assert "BRIDGE_GUMLET_API_KEY" in none.err
    async with gumlet() as (_, settings):
        wrong = await bridge("webhooks", "list", **(settings | {"gumlet_api_key": "not-the-key"}))
        assert wrong.code == 1
        assert "BRIDGE_GUMLET_API_KEY" in wrong.err
        assert "not-the-key" not in wrong.err
        unknown = await bridge("webhooks", "history", "nothing", **settings)
        assert unknown.code == 1
        assert "not_found" in unknown.err


async def test_the_hour_is_kept() -> None:
    """A request too many is answered 429, and sent again when Retry-After is over."""
    told: list[str] = []
    async with gumlet(limit=2, hour=1.0) as (simulated, settings):
        await simulated.live(1)
        api_settings = GumletSettings(api_key=SecretStr(API_KEY), api_url=str(settings["gumlet_api_url"]))
        async with gumlet_api(api_settings, told.append) as api:
            for _ in range(3):
                assert await api.webhooks() == []
    assert any("as Gumlet asks" in words for words in told)


async def test_what_changes_something_is_never_sent_twice() -> None:
    """A POST that Gumlet fails at may have been done, so that it is told and not tried again; a GET is."""
    seen: list[str] = []

    async def fail(request: web.Request) -> web.Response:
        seen.append(request.method)
        return web.json_response({"all_webhooks": []}) if len(seen) == 3 else web.Response(status=500)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fail)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await (site := web.TCPSite(runner, "127.0.0.1", 0)).start()
        assert site
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        async with gumlet_api(GumletSettings(api_key=SecretStr(API_KEY), api_url=url), seen.append) as api:
            with pytest.raises(BridgeError, match="try again later"):
                await api.create_webhook(URL, ["a"], ["status"], SecretStr(TOKEN))
            assert await api.webhooks() == []
        assert seen == ["POST", "GET", "GET"]
    finally:
        await runner.cleanup()


async def test_gumlets_own_sdk_reads_the_simulated_gumlet() -> None:
    """An independent witness: what is simulated is what Gumlet's SDK sends, receives and parses."""
    async with (
        gumlet(retry_interval=0.001) as (simulated, settings),
        AsyncGumlet(api_key=API_KEY, base_url=str(settings["gumlet_api_url"]), max_retries=0) as sdk,
    ):
        made = await sdk.webhook_endpoints.create(
            url=URL, secret_token=TOKEN, triggers=["status"], sources=list(WORKSPACES)
        )
        assert made.id is not None
        await simulated.live(3)
        found = await sdk.webhook_endpoints.list()
        assert [(each.id, each.url) for each in found.all_webhooks] == [(made.id, URL)]
        history = await sdk.webhook_endpoints.history(made.id)
        assert {entry.status for entry in history} == {"failed"}
        assert {entry.asset_id for entry in history} == set(simulated.states)
        for asset_id, state in simulated.states.items():
            page = await sdk.video_assets.list(simulated.owners[asset_id], size=100, offset=0)
            assert asset_id in {each.asset_id for each in page.all_assets}
            details = await sdk.video_assets.retrieve_details(asset_id)
            assert (details.asset_id, details.status) == (asset_id, state["status"])
            parsed = VideoAssetStatusWebhookEvent.construct(**state)
            assert (parsed.type, parsed.asset_id, parsed.status) == (state["type"], asset_id, state["status"])


async def test_simulate_serves_the_api() -> None:
    """`gumlet-bridge simulate --api` is a Gumlet that the tools talk to: what it prints first is how to reach it."""
    process = await asyncio.create_subprocess_exec(
        *BRIDGE,
        *("simulate", "--api", "127.0.0.1:0", "--count", "1", "--retry-after", "0.001"),
        env=environment(gumlet_api_key=API_KEY),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            exported = (await process.stdout.readline()).decode().strip()
            settings: dict[str, object] = {"gumlet_api_key": API_KEY, "gumlet_api_url": exported.partition("=")[2]}
            sources = [part for workspace in WORKSPACES for part in ("--source", workspace)]
            ran = await bridge("webhooks", "subscribe", "--url", URL, *sources, "--yes", tokens=TOKEN, **settings)
            assert ran.code == 0, ran.err
            assert b"deliveries failed" in await process.stderr.readline()
            (webhook,) = await listed(settings)
            history = await bridge("webhooks", "history", webhook["id"], **settings)
            assert {line["status"] for line in history.lines} == {"failed"}
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
