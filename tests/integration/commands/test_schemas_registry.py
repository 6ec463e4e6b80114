"""`gumlet-bridge schemas register` and `status`, as a person and a script call them."""

from __future__ import annotations

import base64
import http.client
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson
import pytest

from bridge.contract.schemas import Contract, schemas_directory
from tests.support.cli import bridge
from tests.support.fake_registry import Problem, StrictRegistry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "s3cret-of-the-tests"
ALL = len(Contract.load().topics)
READY = "video.status.ready"


def changed(directory: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Return a copy of the schemas in which `change` has changed video.status.ready."""
    shutil.copytree(schemas_directory(), directory)
    path = directory / f"{READY}.json"
    schema = orjson.loads(path.read_bytes())
    change(schema)
    path.write_bytes(orjson.dumps(schema))
    return directory


def judge_strictly(url: str, subject: str) -> None:
    """Configure the registry to reject schemas that are not BACKWARD compatible, which is Confluent's default."""
    base = urlsplit(url)
    connection = http.client.HTTPConnection(base.netloc, timeout=30)
    body = b'{"compatibility": "BACKWARD"}'
    connection.request("PUT", f"{base.path}/config/{subject}", body, {"Content-Type": "application/json"})
    assert connection.getresponse().status == 200
    connection.close()


async def test_register_all_then_nothing(registry_url: str, prefix: str) -> None:
    """A dry run registers nothing, a run everything, another run nothing; status agrees each time."""
    settings = {"registry_url": registry_url, "topics_prefix": prefix}
    missing = await bridge("schemas", "status", **settings)
    assert missing.code == 1
    assert "gumlet-bridge schemas register" in missing.err
    assert [line["state"] for line in missing.lines] == ["missing"] * ALL
    dry = await bridge("schemas", "register", "--dry-run", **settings)
    assert dry.code == 0, dry.err
    assert {line["state"] for line in dry.lines} == {"would be registered"}
    assert (await bridge("schemas", "status", **settings)).lines == missing.lines

    first = await bridge("schemas", "register", **settings)
    assert first.code == 0, first.err
    assert {line["subject"] for line in first.lines} >= {f"{prefix}video.status.stream-ready-value"}
    assert {line["state"] for line in first.lines} == {"registered"}
    assert len({line["id"] for line in first.lines}) == ALL
    second = await bridge("schemas", "register", **settings)
    status = await bridge("schemas", "status", **settings)
    assert second.code == status.code == 0, second.err + status.err
    for again in (second, status):
        assert [(line["id"], line["version"]) for line in again.lines] == [(line["id"], 1) for line in first.lines]
    assert {line["detail"] for line in second.lines} == {"nothing to do"}


async def test_a_change_that_is_compatible_is_a_new_version(registry_url: str, prefix: str, tmp_path: Path) -> None:
    """Status reports that the schema differs and could be registered; registering it makes version 2."""

    def add(schema: dict[str, Any]) -> None:
        schema["properties"]["mood"] = {"type": "string", "title": "Mood"}

    settings = {"registry_url": registry_url, "topics_prefix": prefix}
    one = ("--type", READY, "--schemas", str(changed(tmp_path / "schemas", add)))
    await bridge("schemas", "register", "--type", READY, **settings)
    judge_strictly(registry_url, f"{prefix}{READY}-value")
    differs = await bridge("schemas", "status", *one, **settings)
    assert differs.code == 1
    assert [(line["state"], line["detail"]) for line in differs.lines] == [("differs", "compatible with version 1")]
    made = await bridge("schemas", "register", *one, **settings)
    assert made.code == 0, made.err
    assert [line["version"] for line in made.lines] == [2]
    assert (await bridge("schemas", "status", *one, **settings)).code == 0


async def test_an_incompatible_change_is_told_and_holds_up_no_other(
    registry_url: str, prefix: str, tmp_path: Path
) -> None:
    """The dry run foresees the refusal; the run says why and what to do, ends with 1, and registers the rest."""
    settings = {"registry_url": registry_url, "topics_prefix": prefix}
    place = changed(tmp_path / "schemas", lambda schema: schema["properties"].pop("title"))
    two = ("--type", READY, "--type", "video.status.created", "--schemas", str(place))
    await bridge("schemas", "register", "--type", READY, **settings)
    judge_strictly(registry_url, f"{prefix}{READY}-value")
    for arguments in (("register", "--dry-run"), ("register",)):
        ran = await bridge("schemas", *arguments, *two, **settings)
        assert ran.code == 1
        assert "raise x-topic.version" in ran.err
        created, ready = ran.lines
        assert (ready["state"], ready["id"]) == ("refused", None)
        assert "ncompatible" in ready["detail"]
        assert created["state"] in {"registered", "would be registered"}
    (ready,) = (await bridge("schemas", "status", "--type", READY, **settings)).lines
    assert (ready["state"], ready["version"]) == ("registered", 1)


async def test_failures_name_the_fix_and_a_permanent_one_exits_with_78(prefix: str) -> None:
    """Rejected credentials and missing rights exit with 78, a registry that fails or is unreachable with 1."""
    settings: dict[str, object] = {"topics_prefix": prefix, "registry_username": "u", "registry_password": SECRET}
    with StrictRegistry(basic=("u", "another")) as played:
        settings["registry_url"] = played.url
        refused = await bridge("schemas", "register", **settings)
        played.problem = Problem(50001, "Error in the backend datastore")
        failing = await bridge("schemas", "status", **settings)
        assert len(played.seen) == 2, "one question is enough to know"
        played.problem = Problem(40301, "not yours")
        forbidden = await bridge("schemas", "status", **settings)
    away = await bridge("schemas", "register", **settings)
    for ran, code, text in (
        (refused, 78, "BRIDGE_REGISTRY_USERNAME"),
        (failing, 1, "retry later"),
        (forbidden, 78, "denies access"),
        (away, 1, "does not respond"),
    ):
        assert (ran.code, ran.out) == (code, ""), ran.err
        assert text in ran.err
        assert SECRET not in ran.err
        assert base64.b64encode(f"u:{SECRET}".encode()).decode() not in ran.err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "BRIDGE_REGISTRY_URL"),
        ({"registry_url": f"http://u:{SECRET}@127.0.0.1:9"}, "BRIDGE_REGISTRY_URL"),
        (
            {"registry_url": "http://127.0.0.1:9", "registry_password": SECRET},
            "BRIDGE_REGISTRY_PASSWORD: requires username",
        ),
        (
            {"registry_url": "http://127.0.0.1:9", "registry_username": "u"},
            "BRIDGE_REGISTRY_PASSWORD: requires username",
        ),
        (
            {
                "registry_url": "http://127.0.0.1:9",
                "registry_username": "u",
                "registry_password": SECRET,
                "registry_token": SECRET,
            },
            "BRIDGE_REGISTRY_TOKEN: cannot be combined with",
        ),
        ({"registry_wire_format": "confluent"}, "BRIDGE_REGISTRY_WIRE_FORMAT: other than plain requires url"),
        ({"registry_url": "http://127.0.0.1:9", "registry_ssl_cafile": __file__}, "BRIDGE_REGISTRY_SSL_CAFILE"),
    ],
    ids=["no address", "secret in the address", "no username", "no password", "two ways", "no registry", "no PEM"],
)
async def test_wrong_settings_end_with_78(settings: dict[str, object], said: str) -> None:
    """Each mistake is reported with its setting's name before anything is sent; no secret is printed."""
    ran = await bridge("schemas", "status", **settings)
    assert ran.code == 78
    assert said in ran.err
    assert SECRET not in ran.err + ran.out


async def test_a_type_that_is_none(prefix: str) -> None:
    """A type that the contract lacks is reported."""
    ran = await bridge(
        "schemas", "status", "--type", "no.such", registry_url="http://127.0.0.1:9", topics_prefix=prefix
    )
    assert ran.code == 1
    assert "no.such is not an event type" in ran.err


async def test_tls(tmp_path: Path, prefix: str) -> None:
    """A private authority's certificate is accepted with BRIDGE_REGISTRY_SSL_CAFILE and rejected without it."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    certificate, key = tmp_path / "registry.pem", tmp_path / "registry.key"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=registry"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with StrictRegistry(tls=context, bearer=SECRET) as played:
        settings = {"registry_url": played.url, "registry_token": SECRET, "topics_prefix": prefix}
        ran = await bridge("schemas", "register", registry_ssl_cafile=certificate, **settings)
        assert ran.code == 0, ran.err
        unknown = await bridge("schemas", "status", **settings)
    assert unknown.code == 1
    assert "BRIDGE_REGISTRY_SSL_CAFILE" in unknown.err
    assert SECRET not in unknown.err


@pytest.mark.parametrize(("wire_format", "missing"), [("plain", "warning"), ("confluent", "failed")])
async def test_doctor_looks_at_the_registry(wire_format: str, missing: str, prefix: str, tmp_path: Path) -> None:
    """What is missing is a warning, or a failure where events wait for it; each finding has its fix."""
    settings: dict[str, object] = {
        "tokens": SECRET,
        "journal_dir": tmp_path,
        "kafka_bootstrap_servers": "127.0.0.1:9",
        "topics_prefix": prefix,
        "registry_wire_format": wire_format,
    }

    async def finding() -> tuple[str, str]:
        ran = await bridge("doctor", **settings)
        (line,) = [line for line in ran.lines if line["check"] == "registry"]
        return line["result"], line["fix"]

    with StrictRegistry() as played:
        settings["registry_url"] = played.url
        assert await finding() == (missing, "`gumlet-bridge schemas register`")
        assert (await bridge("schemas", "register", **settings)).code == 0
        assert await finding() == ("ok", "")
    result, fix = await finding()
    assert (result, "BRIDGE_REGISTRY_URL" in fix) == ("failed", True)


async def test_config_check_reads_the_authority(prefix: str) -> None:
    """An unusable file of authorities is found before `gumlet-bridge serve` starts."""
    ran = await bridge(
        *("config", "check"),
        tokens=SECRET,
        topics_prefix=prefix,
        registry_url="https://127.0.0.1:9",
        registry_wire_format="confluent",
        registry_ssl_cafile=__file__,
    )
    assert ran.code == 78
    assert "BRIDGE_REGISTRY_SSL_CAFILE" in ran.err
