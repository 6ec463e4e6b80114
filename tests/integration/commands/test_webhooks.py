"""`gumlet-bridge webhooks` and the API client, against the mock of Gumlet, which Gumlet's own SDK verifies."""

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
from bridge.devtools.simulated_assets import WORKSPACES, generate_assets
from bridge.errors import BridgeError
from bridge.operations.gumlet_api import gumlet_api
from tests.support.cli import bridge
from tests.support.daemon import BRIDGE, environment
from tests.support.mock_gumlet import API_KEY, gumlet

URL = "http://127.0.0.1:9/webhooks/gumlet/films"
TOKEN = "the-token-of-this-test"
CREATE = ("webhooks", "create", "--url", URL, "--source", WORKSPACES[0])


async def listed(settings: dict[str, object]) -> list[dict[str, Any]]:
    """Return what `gumlet-bridge webhooks list` prints."""
    ran = await bridge("webhooks", "list", tokens=TOKEN, **settings)
    assert ran.code == 0, ran.err
    return ran.lines


async def test_create_shows_the_webhook_and_is_idempotent() -> None:
    """A dry run changes nothing; a second call with the same URL and sources creates no second webhook."""
    async with gumlet() as (_, settings):
        dry = await bridge(*CREATE, "--dry-run", tokens=TOKEN, **settings)
        assert dry.code == 0, dry.err
        assert URL in dry.err
        assert await listed(settings) == []
        for _ in range(2):
            ran = await bridge(*CREATE, "--yes", tokens=TOKEN, **settings)
            assert ran.code == 0, ran.err
        (webhook,) = await listed(settings)
        assert (webhook["url"], webhook["sources"]) == (URL, [WORKSPACES[0]])
        assert (webhook["triggers"], webhook["token"]) == (["status", "live-video-status"], "the bridge's")
        rotated = await bridge(*CREATE, "--yes", tokens="another-token", **settings)
        assert rotated.code == 0, rotated.err
        (webhook,) = await listed(settings)
        assert webhook["token"] == "another"
        assert all(TOKEN not in ran.out + ran.err for ran in (dry, rotated))


async def test_create_rejects_a_url_that_the_daemon_would_not_serve() -> None:
    """A path that the daemon answers with 404 is a mistake; a trailing slash makes no second webhook."""
    async with gumlet() as (_, settings):
        for wrong in (URL.replace("gumlet", "gumlte"), URL.replace("films", "-x")):
            ran = await bridge(*CREATE[:3], wrong, *CREATE[4:], "--yes", tokens=TOKEN, **settings)
            assert ran.code == 2
            assert "404" in ran.err
        for same in (URL, f"{URL}/"):
            ran = await bridge(*CREATE[:3], same, *CREATE[4:], "--yes", tokens=TOKEN, **settings)
            assert ran.code == 0, ran.err
        assert len(await listed(settings)) == 1


async def test_create_sends_the_first_token_that_has_not_expired(tmp_path: Path) -> None:
    """Name and expiry in the tokens file are not part of the token; an expired token is not given to Gumlet."""
    file = tmp_path / "tokens"
    file.write_text(f"ended name=old expires=2020-01-01\n{TOKEN} name=new expires=2999-01-01\n")
    async with gumlet() as (_, settings):
        ran = await bridge(*CREATE, "--yes", tokens_file=file, **settings)
        assert ran.code == 0, ran.err
        (webhook,) = await listed(settings)
        assert webhook["token"] == "the bridge's"


async def test_update_delete_history() -> None:
    """A webhook's properties change one by one, its history is shown, and it can be deleted."""
    async with gumlet(retry_interval=0.001) as (simulated, settings):
        everything = [part for workspace in WORKSPACES for part in ("--source", workspace)]
        await bridge("webhooks", "create", "--url", URL, *everything, "--yes", tokens=TOKEN, **settings)
        (webhook,) = await listed(settings)
        await simulated.run_assets(2)
        history = await bridge("webhooks", "history", webhook["id"], "--status", "failed", **settings)
        types = [event for asset, _ in zip(generate_assets(1), range(2), strict=False) for event in asset.types]
        assert [line["event"] for line in history.lines] == types
        changed = await bridge(
            "webhooks", "update", webhook["id"], "--trigger", "video.status.ready", "--yes", **settings
        )
        assert changed.code == 0, changed.err
        assert (await listed(settings))[0] == webhook | {"triggers": ["video.status.ready"]}
        deleted = await bridge("webhooks", "delete", webhook["id"], "--yes", **settings)
        assert deleted.code == 0, deleted.err
        assert await listed(settings) == []
        again = await bridge("webhooks", "delete", webhook["id"], "--yes", **settings)
        assert again.code == 1
        assert "gumlet-bridge webhooks list" in again.err


async def test_missing_key_wrong_key_and_unknown_webhook_name_the_fix() -> None:
    """Each error names the setting to fix and does not show the key."""
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


async def test_client_waits_when_gumlet_limits_requests() -> None:
    """A request that gets 429 is repeated after Retry-After."""
    messages: list[str] = []
    async with gumlet(limit=2, hour=1.0) as (simulated, settings):
        await simulated.run_assets(1)
        api_settings = GumletSettings(api_key=SecretStr(API_KEY), api_url=str(settings["gumlet_api_url"]))
        async with gumlet_api(api_settings, messages.append) as api:
            for _ in range(3):
                assert await api.webhooks() == []
    assert any("as Gumlet asks" in message for message in messages)


async def test_create_in_a_script_names_yes() -> None:
    """Without a terminal to ask on, nothing is created and the error names --yes."""
    async with gumlet() as (_, settings):
        ran = await bridge(*CREATE, tokens=TOKEN, **settings)
        assert ran.code == 1
        assert "--yes" in ran.err
        assert await listed(settings) == []


async def test_failed_changes_are_not_retried_and_reads_are() -> None:
    """A POST that Gumlet answers with 500 may have taken effect: it is reported, not retried; a GET is retried."""
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


async def test_gumlets_sdk_accepts_the_mock() -> None:
    """Gumlet's own SDK can call the mock API and parse its responses and webhook bodies."""
    async with (
        gumlet(retry_interval=0.001) as (simulated, settings),
        AsyncGumlet(api_key=API_KEY, base_url=str(settings["gumlet_api_url"]), max_retries=0) as sdk,
    ):
        created = await sdk.webhook_endpoints.create(
            url=URL, secret_token=TOKEN, triggers=["status"], sources=list(WORKSPACES)
        )
        assert created.id is not None
        await simulated.run_assets(3)
        found = await sdk.webhook_endpoints.list()
        assert [(each.id, each.url) for each in found.all_webhooks] == [(created.id, URL)]
        history = await sdk.webhook_endpoints.history(created.id)
        assert {entry.status for entry in history} == {"failed"}
        assert {entry.asset_id for entry in history} == set(simulated.states)
        for asset_id, state in simulated.states.items():
            page = await sdk.video_assets.list(simulated.owners[asset_id], size=100, offset=0)
            assert asset_id in {each.asset_id for each in page.all_assets}
            details = await sdk.video_assets.retrieve_details(asset_id)
            assert (details.asset_id, details.status) == (asset_id, state["status"])
            parsed = VideoAssetStatusWebhookEvent.construct(**state)
            assert (parsed.type, parsed.asset_id, parsed.status) == (state["type"], asset_id, state["status"])


async def test_mock_gumlet_serves_the_api() -> None:
    """`gumlet-bridge mock-gumlet` prints how to reach it, and the commands work against it."""
    process = await asyncio.create_subprocess_exec(
        *BRIDGE,
        *("mock-gumlet", "--listen", "127.0.0.1:0", "--count", "1", "--retry-after", "0.001"),
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
            ran = await bridge("webhooks", "create", "--url", URL, *sources, "--yes", tokens=TOKEN, **settings)
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
