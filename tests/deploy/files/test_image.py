"""The image and the compose file, as far as they can be judged without an engine to run them."""

from __future__ import annotations

import json
import re
import shlex
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from bridge.config.settings import PREFIX, Settings
from tests.deploy.external_tools import DEPLOY, ROOT, run, tool


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their arguments; continued lines joined, RUN without its --mount."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    split = [(word, rest) for line in lines if line.strip() for word, _, rest in [line.partition(" ")]]
    return [(word, re.sub(r"^(--mount=\S+ +)+", "", rest) if word == "RUN" else rest) for word, rest in split]


def final_stage() -> list[tuple[str, str]]:
    """Return the instructions of what becomes the image."""
    found = instructions()
    last = max(index for index, (word, _) in enumerate(found) if word == "FROM")
    return found[last:]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """Read the compose file as `docker compose` would."""
    return dict(json.loads(run(tool("compose-spec"), "-format", "json", "compose.yaml", cwd=DEPLOY)))


def test_dockerfile_is_clean_by_its_linter() -> None:
    """hadolint, with its ShellCheck of what RUN runs, has nothing to say."""
    run(Path(sysconfig.get_path("scripts")) / "hadolint", "--failure-threshold=style", DEPLOY / "Dockerfile")


def test_image_runs_as_a_numeric_user_who_is_not_root() -> None:
    """Kubernetes' runAsNonRoot can only judge a number."""
    (user,) = [rest for word, rest in final_stage() if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_image_installs_only_what_the_lock_names_with_its_hash() -> None:
    """No build of the image can install another version or a replaced file."""
    installs = [each for word, rest in instructions() if word == "RUN" for each in re.findall(r"pip [^&]*", rest)]
    installs = [each for each in installs if " install " in each]
    assert len(installs) == 3
    assert all("--require-hashes" in each or ("--no-index" in each and "--no-deps" in each) for each in installs)


def test_final_stage_holds_no_builder() -> None:
    """Compilers, caches, development tools and pip are not in the image; it installs nothing."""
    runs = [rest for word, rest in final_stage() if word == "RUN"]
    assert not [rest for rest in runs if re.search(r"pip install|apt|apk", rest)]
    assert any(rest.startswith("rm -rf /usr/local/bin/pip*") for rest in runs)
    assert [rest for word, rest in final_stage() if word == "COPY"] == ["--from=build /opt/bridge /opt/bridge"]


def test_image_says_how_to_stop_it_and_whether_it_is_well() -> None:
    """What an engine needs to know is in the image, not in a manual."""
    words = {word for word, _ in final_stage()}
    assert {"STOPSIGNAL", "HEALTHCHECK", "LABEL", "EXPOSE", "VOLUME", "ENTRYPOINT"} <= words


def test_base_image_and_index_can_be_exchanged() -> None:
    """A company's mirror is a build argument away; the default is pinned, never `latest`."""
    arguments = {rest.partition("=")[0]: rest.partition("=")[2] for word, rest in instructions() if word == "ARG"}
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", arguments["PYTHON_IMAGE"])
    assert "PIP_INDEX_URL" in arguments
    assert all(rest.split()[0] == "${PYTHON_IMAGE}" for word, rest in instructions() if word == "FROM")


def test_every_file_that_the_image_copies_reaches_the_builder() -> None:
    """The list of what the builder may see and the Dockerfile's COPY lines say the same."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied: set[str] = set()
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            *sources, target = shlex.split(rest)
            copied.update(sources)
            assert target
    assert copied == allowed
    assert all((ROOT / each).exists() for each in copied)


def test_compose_file_is_valid_and_starts_in_order(compose: dict[str, Any]) -> None:
    """Each service waits until what it needs is healthy, so each that is needed has a health check."""
    services = compose["services"]
    assert set(services) == {"kafka", "bridge", "prometheus", "grafana", "topics"}
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy"
            assert "healthcheck" in services[needed] or needed == "bridge"  # its image has one


def test_compose_file_pins_images_and_stays_on_the_loopback_address(compose: dict[str, Any]) -> None:
    """A trial must not change by itself, nor be open to the network."""
    for service in compose["services"].values():
        assert re.search(r":(v?\d+\.\d+\.\d+|local)$", service["image"])
        assert all(port["host_ip"] == "127.0.0.1" for port in service["ports"])


def test_compose_file_names_only_settings_that_exist(compose: dict[str, Any]) -> None:
    """A misspelt variable would be no mistake to the engine, and silently change nothing."""
    environment = compose["services"]["bridge"]["environment"]
    assert set(environment) <= known_variables()


def known_variables() -> set[str]:
    """Return every environment variable that configures the bridge."""
    names: set[str] = set()
    for name, field in Settings.model_fields.items():
        nested = getattr(field.annotation, "model_fields", None)
        names |= {f"{PREFIX}{name}_{each}".upper() for each in nested} if nested else {f"{PREFIX}{name}".upper()}
    return names


def test_files_that_compose_mounts_exist(compose: dict[str, Any]) -> None:
    """The engine would make an empty directory in place of a missing file."""
    mounts = [
        volume["source"]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if volume["type"] == "bind"
    ]
    assert mounts
    assert all(Path(each).exists() for each in mounts)


def test_workflows_are_clean_by_their_linter() -> None:
    """Actionlint checks the syntax, expressions and shell code of the workflows."""
    run(tool("actionlint"), "-shellcheck=", *sorted((ROOT / ".github" / "workflows").glob("*.yaml")))
