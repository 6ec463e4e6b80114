"""A headless Chromium, driven by the W3C WebDriver protocol over chromedriver: what a test of a page needs, no more."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
from collections.abc import Iterator
from typing import Any

from tests.deploy.external_tools import tool
from tests.support.daemon import request

OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
# It loads only our own page; many containers do not allow a sandbox.


class Browser:
    """One window."""

    def __init__(self, driver: str, chromium: str, *, width: int, height: int) -> None:
        self._driver = driver
        capabilities = {
            "goog:chromeOptions": {"binary": chromium, "args": [*OPTIONS, f"--window-size={width},{height}"]},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{made['sessionId']}"

    def _call(self, method: str, path: str, data: dict[str, Any] | None = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        answer = request(self._driver, method, path, body, {"Content-Type": "application/json"})
        value = json.loads(answer.body)["value"]
        assert answer.status == 200, value
        return value

    def open(self, url: str) -> None:
        """Go to a page."""
        self._call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """Run JavaScript in the page and return what it returns."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def run_async(self, script: str) -> Any:
        """Run JavaScript that hands its result to `done`, and return that."""
        script = f"const done = arguments[arguments.length - 1]; {script}"
        return self._call("POST", f"{self._session}/execute/async", {"script": script, "args": []})

    def text(self, selector: str) -> str:
        """Return the text of what a selector finds first, as it is rendered."""
        return str(self.run(f"return document.querySelector({json.dumps(selector)}).innerText"))

    def emulate(self, **arguments: Any) -> None:
        """Pretend another device or preference, by a command of the DevTools protocol."""
        command = {"cmd": arguments.pop("command"), "params": arguments}
        self._call("POST", f"{self._session}/goog/cdp/execute", command)

    def screenshot(self) -> bytes:
        """Return the window as a PNG."""
        return base64.b64decode(self._call("GET", f"{self._session}/screenshot"))

    def complaints(self) -> list[str]:
        """Return what the browser wrote to its console since it was last asked: errors, refused resources."""
        entries = self._call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [f"{each['level']}: {each['message']}" for each in entries]

    def close(self) -> None:
        """End the browser."""
        self._call("DELETE", self._session)


@contextlib.contextmanager
def chromium(*, width: int = 1100, height: int = 900) -> Iterator[Browser]:
    """Run Chromium; skip the test with the reason if it is not installed."""
    command = [tool("chromedriver"), "--port=0"]
    binary = tool("chromium")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = next(each for each in process.stdout if "started successfully on port" in each)
            port = line.rstrip(".\n").rpartition(" ")[2]
            browser = Browser(f"http://127.0.0.1:{port}", binary, width=width, height=height)
            try:
                yield browser
            finally:
                browser.close()
        finally:
            process.terminate()
