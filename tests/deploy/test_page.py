"""The page of the admin port, in a real Chromium, fed by a real daemon."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.deploy.browser import Browser, chromium
from tests.deploy.external_tools import ROOT
from tests.support.brokers import Broker
from tests.support.brokers.apache import free_port
from tests.support.daemon import TOKEN, Daemon, request, wait_for

AXE = ROOT / "tests" / "node" / "node_modules" / "axe-core" / "axe.min.js"
EXAMPLE = ROOT / "schemas" / "examples" / "video.status.ready" / "full.in.json"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run one Chromium for all tests of the page."""
    with chromium() as found:
        yield found


@pytest.fixture
def daemon(tmp_path: Path, embedded_broker: Broker, prefix: str) -> Iterator[Daemon]:
    """Run a daemon on the embedded broker."""
    with Daemon(tmp_path, embedded_broker.bootstrap_servers, prefix, topics_provision="create") as running:
        yield running


def test_a_delivery_appears_on_the_page(browser: Browser, daemon: Daemon) -> None:
    """A delivery appears with type, asset, offset, id and latencies; so do failures."""
    browser.open(daemon.admin + "/")
    wait_for(lambda: browser.text("#line") == "live", what="the stream")
    assert browser.text("#published tbody") == "none"
    body = json.loads(EXAMPLE.read_bytes())
    assert daemon.post(EXAMPLE.read_bytes()).status == 200
    assert daemon.post(b"no json").status == 200
    assert daemon.post(b"{}", token="wrong").status == 401
    wait_for(lambda: body["asset_id"] in browser.text("#published tbody"), what="the delivery on the page")
    row = browser.text("#published tbody")
    place = re.escape(f"{daemon.settings['topics_prefix']}video.status.ready") + r"-[0-3]-0"
    assert re.search(rf"\bvideo\.status\.ready\s+{body['asset_id']}\s+{place}\s+[0-9a-f]{{32}}", row)
    assert re.search(r"\d+ ms\s+\d+ ms$", row)
    wait_for(lambda: "invalid_json" in browser.text("#dead_letters tbody"), what="the dead letter on the page")
    wait_for(lambda: "invalid_token" in browser.text("#rejected tbody"), what="the refusal on the page")
    assert browser.text("#ready") == "yes"
    assert browser.text("#kafka") == "connected"
    assert browser.text("#full") == "not filling"
    wait_for(lambda: "published" in browser.run("return document.getElementById('chart-text').textContent"))
    assert [each for each in browser.complaints() if "SEVERE" in each] == []


def test_page_shows_that_kafka_is_not_connected_and_that_the_daemon_has_ended(browser: Browser, tmp_path: Path) -> None:
    """The page never shows old figures as if they were current."""
    with Daemon(tmp_path, "127.0.0.1:9") as daemon:
        browser.open(daemon.admin + "/")
        daemon.post(EXAMPLE.read_bytes())
        wait_for(lambda: browser.text("#pending") == "1", what="the pending delivery")
        assert browser.text("#kafka") == "not connected"
        daemon.kill()
        wait_for(lambda: "no connection" in browser.text("#line"), what="the page's notice")
        browser.open("about:blank")
        browser.complaints()


def test_banner_names_cause_and_next_step_while_kafka_is_unreachable(browser: Browser, tmp_path: Path) -> None:
    """The first words of the page are what fails, why, and what to do; nothing on it is green meanwhile."""
    with Daemon(tmp_path, "127.0.0.1:9") as daemon:
        browser.open(daemon.admin + "/")
        wait_for(lambda: "kafka (failing)" in browser.text("#problems"), what="the banner")
        assert "127.0.0.1:9" in browser.text("#problems")
        assert "Next step:" in browser.text("#problems")
        assert "failing" in browser.run("return document.getElementById('banner').className")
        state = daemon.status()
        assert browser.text("#state") == f"{state['health'][0]['component']}: failing"


def test_page_says_first_which_topic_is_blocked_and_why(browser: Browser, apache_kafka: Broker, tmp_path: Path) -> None:
    """The banner begins with the blocked topics, their cause and the command; the figures count topics and events."""
    topic = "blocked.video.status.ready"
    with Daemon(tmp_path, apache_kafka.bootstrap_servers, "blocked.", topics_provision="verify") as daemon:
        browser.open(daemon.admin + "/")
        assert daemon.post(EXAMPLE.read_bytes()).status == 200
        wait_for(lambda: daemon.status()["journal"]["parked"] == {topic: 1}, what="the parked delivery")
        wait_for(lambda: browser.text("#pending") == "1", what="the pending delivery")
        assert browser.text("#state") == "30 topics: failing"
        assert "30 topics are blocked: the topic does not exist" in browser.text("#problems")
        assert browser.text("#problems").count("does not exist") == 1
        assert "gumlet-bridge topics apply" in browser.text("#problems")
        assert browser.text("#blocked") == "30"
        assert topic in browser.text("#topics")
        assert browser.text("#kafka") == "connected"


def test_page_shows_that_the_registry_is_unreachable(
    browser: Browser, embedded_broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """The banner names the registry's URL and the setting; Kafka is shown as connected meanwhile."""
    url = f"http://127.0.0.1:{free_port()}"
    settings = {"registry_url": url, "registry_wire_format": "confluent", "topics_provision": "create"}
    with Daemon(tmp_path, embedded_broker.bootstrap_servers, prefix, **settings) as daemon:
        browser.open(daemon.admin + "/")
        assert daemon.post(EXAMPLE.read_bytes()).status == 200
        wait_for(lambda: "registry (failing)" in browser.text("#problems"), what="the banner")
        assert f"{url} does not respond: the connection was refused" in browser.text("#problems")
        assert "BRIDGE_REGISTRY_URL" in browser.text("#problems")
        assert browser.text("#registry") == "failing"
        assert browser.text("#kafka") == "connected"


def test_page_without_deliveries_shows_a_command_that_sends_one(browser: Browser, daemon: Daemon) -> None:
    """The command names the port and the token; once something was published it is gone."""
    browser.open(daemon.admin + "/")
    wait_for(lambda: "curl" in browser.text("#curl"), what="the command")
    assert f":{urlsplit(daemon.public).port}/webhooks/gumlet" in browser.text("#curl")
    assert "x-gumlet-token: $TOKEN" in browser.text("#curl")
    assert "configured" in browser.text("#token-hint")
    assert TOKEN not in browser.run("return document.documentElement.outerHTML")
    daemon.post(EXAMPLE.read_bytes())
    wait_for(lambda: browser.run("return document.getElementById('empty').hidden"), what="the end of the hint")


def test_history_is_kept_by_the_daemon(browser: Browser, daemon: Daemon) -> None:
    """A page that is opened later draws what happened before."""
    daemon.post(EXAMPLE.read_bytes())
    browser.open(daemon.admin + "/")
    wait_for(
        lambda: browser.run("return typeof hour === 'undefined' ? 0 : hour.length"),
        40,
        "the first point of the history",
    )
    browser.open("about:blank")
    browser.open(daemon.admin + "/")
    drawn = "return document.getElementById('line-published').getAttribute('points')"
    wait_for(lambda: browser.run(drawn), 5, "the line before the next point is due")


def test_page_shows_no_secret(browser: Browser, tmp_path: Path) -> None:
    """The configuration is shown; tokens and passwords are asterisks."""
    secret = {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_sasl_mechanism": "PLAIN"}
    secret |= {"kafka_sasl_username": "bridge", "kafka_sasl_password": "kafkas-password"}
    with Daemon(tmp_path, "127.0.0.1:9", **secret) as daemon:
        browser.open(daemon.admin + "/")
        wait_for(lambda: "SASL_PLAINTEXT" in browser.run("return document.body.textContent"), what="configuration")
        everything = browser.run("return document.documentElement.outerHTML")
    assert TOKEN not in everything
    assert "kafkas-password" not in everything
    assert "***" in everything


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_page_fits_and_can_be_read(browser: Browser, daemon: Daemon, scheme: str, width: int) -> None:
    """Nothing is wider than the screen, ids are not wrapped at 1280 px, all text has a contrast of 4.5 to 1."""
    browser.emulate(
        command="Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
    )
    browser.emulate(command="Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(daemon.admin + "/")
    for number in range(30):
        document = json.loads(EXAMPLE.read_bytes()) | {"asset_id": f"5fd088e0a47da8246f1fb{number:03}"}
        assert daemon.post(json.dumps(document).encode()).status == 200
    daemon.post(b"{}", token="wrong")
    daemon.post(b"no json")
    wait_for(lambda: "invalid_json" in browser.text("#dead_letters tbody"), what="the dead letter")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    if width < 800:  # nothing is cut off at the side of a card either
        assert browser.run(CUT_SECTIONS) == []
    else:  # each id is on one line
        assert browser.run(WRAPPED_CELLS) == []
    poor = browser.run(CONTRAST)
    assert poor == []
    unnamed = "return [...document.querySelectorAll('table')].filter((t) => !t.caption).length"
    assert browser.run(unnamed) == 0
    assert browser.run("return document.documentElement.lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_accessible(browser: Browser, daemon: Daemon, scheme: str) -> None:
    """axe-core (WCAG and best practices) finds nothing on the full page in either colour scheme."""
    if not AXE.exists():
        pytest.skip("NOT CHECKED: tests/node is without its packages; `make check` installs them where npm is")
    browser.emulate(command="Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(daemon.admin + "/")
    assert daemon.post(EXAMPLE.read_bytes()).status == 200
    daemon.post(b"{}", token="wrong")
    daemon.post(b"no json")
    wait_for(lambda: "invalid_json" in browser.text("#dead_letters tbody"), what="the dead letter")
    browser.run("document.querySelector('details').open = true")
    browser.run(AXE.read_text())
    found = browser.run_async(
        "axe.run().then((r) => done(r.violations.map((v) => [v.id, v.nodes.map((n) => n.html)])))"
    )
    assert found == []


def test_page_may_load_nothing_from_elsewhere(daemon: Daemon) -> None:
    """The policy forbids all but the page's own files, and the page names no others."""
    answer = request(daemon.admin, "GET", "/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for path in ("/", "/page.css", "/page.js"):
        assert not re.search(r"[\w\"'(=]//", request(daemon.admin, "GET", path).body)


def test_number_of_open_pages_is_bounded(daemon: Daemon) -> None:
    """The 21st open page gets 503, and the daemon stops at once although pages are open."""
    connections = [HTTPConnection(urlsplit(daemon.admin).netloc, timeout=30) for _ in range(21)]
    answers = []
    for connection in connections:
        connection.request("GET", "/events")
        answers.append(connection.getresponse())
    assert [each.status for each in answers] == [200] * 20 + [503]
    assert daemon.stop() == 0
    for connection in connections:
        connection.close()


CUT_SECTIONS = """
return [...document.querySelectorAll('section')].filter((s) => s.scrollWidth > s.clientWidth).map((s) => s.innerText);
"""
WRAPPED_CELLS = """
const lines = (cell) => { const range = document.createRange(); range.selectNodeContents(cell);
  return new Set([...range.getClientRects()].map((r) => r.top)).size; };
return [...document.querySelectorAll('#published td.exact')].filter((c) => lines(c) > 1).map((c) => c.textContent);
"""
CONTRAST = """
const channel = (v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number);
  return .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b); };
const ground = (e) => { for (; e; e = e.parentElement) {
  const c = getComputedStyle(e).backgroundColor; if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255,255,255)'; };
return [...document.querySelectorAll('body *')].filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 &&
  n.textContent.trim())).filter((e) => { const a = light(getComputedStyle(e).color), b = light(ground(e));
  return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5; }).map((e) => e.outerHTML.slice(0, 80));
"""
