"""The load: wrk as fast as it goes (closed loop), oha at a rate (open loop, coordinated omission corrected).

Both are programs of their own, so that what is measured is the server's process and not a generator written in
Python. wrk is a Debian package (`apt-get install wrk`), oha a crate (`cargo install oha`).
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

TOKEN = "bench"
_SCRIPT = """
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
wrk.method = "POST"
wrk.path = "/webhooks/gumlet"
wrk.headers["x-gumlet-token"] = "{token}"
wrk.headers["content-type"] = "application/json"
function done(summary, latency, requests)
  local failed = summary.errors
  io.stderr:write(string.format(
    '{{"requests": %d, "microseconds": %d, "errors": %d, "p50": %f, "p99": %f, "max": %f}}',
    summary.requests, summary.duration,
    failed.connect + failed.read + failed.write + failed.timeout + failed.status,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
end
"""


class Loaded(NamedTuple):
    """The result of a load: responses, seconds, failed or rejected requests, latencies in milliseconds."""

    requests: int
    seconds: float
    errors: int
    p50: float
    p99: float
    maximum: float

    @property
    def rate(self) -> float:
        """Responses per second."""
        return self.requests / self.seconds


def missing() -> list[str]:
    """Return the generators that are not installed, with the command that installs them."""
    ways = {"wrk": "apt-get install wrk", "oha": "cargo install oha"}
    return [f"{program} ({way})" for program, way in ways.items() if not shutil.which(program)]


def closed(url: str, body: Path, scratch: Path, *, connections: int = 64, seconds: float = 4) -> Loaded:
    """Send as fast as the server responds (closed loop)."""
    script = scratch / "post.lua"
    script.write_text(_SCRIPT.format(body=body, token=TOKEN))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "10s", "-s", str(script), url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = json.loads(output[output.index("{") :])
    return Loaded(
        found["requests"],
        found["microseconds"] / 1e6,
        found["errors"],
        found["p50"],
        found["p99"],
        found["max"],
    )


def steady(url: str, body: Path, rate: float, *, connections: int = 64, seconds: float = 4) -> Loaded:
    """Send `rate` requests per second (open loop); the latency of a late response counts from its scheduled time."""
    command = ["oha", "--no-tui", "-q", f"{rate:.0f}", "-c", str(connections), "-z", f"{seconds:.0f}s"]
    # The option's name changed with oha 1.5.
    usage = subprocess.run(["oha", "--help"], capture_output=True, text=True, check=True).stdout
    command += ["--output-format", "json"] if "--output-format" in usage else ["-j"]
    command += ["--latency-correction", "-m", "POST", "-D", str(body)]
    command += ["-H", f"x-gumlet-token: {TOKEN}", f"{url}/webhooks/gumlet"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    answers = sum(count for status, count in found["statusCodeDistribution"].items() if status == "200")
    others = sum(found["statusCodeDistribution"].values()) - answers
    latency = found["latencyPercentiles"]
    measured = (latency["p50"], latency["p99"], found["summary"]["slowest"])
    p50, p99, maximum = (math.inf if seconds is None else seconds * 1000 for seconds in measured)
    return Loaded(answers, found["summary"]["total"], others, p50, p99, maximum)
