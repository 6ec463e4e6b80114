"""The admin port's check of the Host header."""

from __future__ import annotations

import pytest

from bridge.admin.host_check import is_allowed

NAMES = frozenset({"bridge", "status.example.com", "*.bridge-pods"})


@pytest.mark.parametrize(
    "header",
    [
        "localhost",
        "LOCALHOST:8081",
        "bridge.localhost:8081",
        "127.0.0.1",
        "10.1.2.3:8081",
        "[::1]:8081",
        "[fe80::1%25eth0]:8081",
        "[2001:db8::1]",
        "bridge:8081",
        "Status.Example.com.",
        "bridge-0.bridge-pods:8081",
    ],
)
def test_localhost_addresses_and_configured_names_are_allowed(header: str) -> None:
    """Probes use the pod's address, people use localhost or a name that they configured."""
    assert is_allowed(header, NAMES)


@pytest.mark.parametrize(
    "header",
    [
        "attacker.example",
        "attacker.example:8081",
        "localhost.attacker.example",
        "127.0.0.1.attacker.example",
        "xlocalhost",
        "other-bridge",
        "bridge-pods",
        "xbridge-pods",
        "",
        ":8081",
        "[::1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "user@127.0.0.1",
        "127.0.0.1:80:80",
    ],
)
def test_any_other_name_is_rejected(header: str) -> None:
    """A name that an attacker's DNS can point to this machine is never served."""
    assert not is_allowed(header, NAMES)
