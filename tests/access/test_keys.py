from __future__ import annotations

import os
from pathlib import Path

import pytest

from wisp.access.gate import Gate
from wisp.access.keys import KeyRecord, add, digest, read, revoke
from wisp.errors import ConfigError, Forbidden, NotAuthenticated
from wisp.keys_command import run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def test_a_key_is_told_once_and_kept_nowhere(path: Path) -> None:
    key = add(path, KeyRecord(name="phone", max_sessions=2))
    content = path.read_text()
    assert key not in content
    assert digest(key) in content
    assert os.stat(path).st_mode & 0o077 == 0
    found = read(path).find(key)
    assert found
    assert found.name == "phone"
    assert found.quota.max_sessions == 2
    assert read(path).find(key + "x") is None
    assert read(path).find("x" * 10**6) is None


def test_a_name_is_given_once(path: Path) -> None:
    add(path, KeyRecord(name="phone"))
    with pytest.raises(ConfigError, match="'phone' already"):
        add(path, KeyRecord(name="phone"))
    revoke(path, "phone")
    with pytest.raises(ConfigError, match="'phone' already"):
        add(path, KeyRecord(name="phone"))
    with pytest.raises(ConfigError, match="no name"):
        add(path, KeyRecord(name="a b"))


@pytest.mark.parametrize("content", ["[1]", "- {nam: x}", "- {name: x}\n- {name: x}", "a: ["])
def test_a_file_of_something_else_gets_a_sentence(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(ConfigError, match=str(path)):
        read(path)
    with pytest.raises(ConfigError):
        Gate(path)


def test_a_gate_knows_keys_and_certificates(path: Path) -> None:
    key = add(path, KeyRecord(name="ops", operator=True))
    revoke(path, "stolen")
    gate = Gate(path)
    caller = gate.caller(f"Bearer {key}")
    assert (caller.name, caller.operator) == ("ops", True)
    assert gate.caller(f"bearer  {key} ").usage is caller.usage
    assert gate.caller(None, certificate="phone").name == "phone"
    with pytest.raises(Forbidden, match="'stolen' was revoked"):
        gate.caller(None, certificate="stolen")
    for wrong in (None, "", key, f"Basic {key}", "Bearer ", "Bearer sk-wisp-wrong"):
        with pytest.raises(NotAuthenticated):
            gate.caller(wrong)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("a socket", "a socket"),
    ],
)
def test_one_subscriber_is_one_caller(address: str, network: str) -> None:
    """One has 2^64 addresses of IPv6, and had a fair share with each of them."""
    assert Gate().caller(None, address=address).name == network


def test_without_a_file_everybody_is_known_by_the_address() -> None:
    gate = Gate()
    assert gate.caller(None, address="10.0.0.7").name == "10.0.0.7"
    assert gate.caller("Bearer anything", address="10.0.0.7").operator is False


def test_a_key_counts_and_is_revoked_without_a_restart(path: Path) -> None:
    first = add(path, KeyRecord(name="first"))
    gate = Gate(path)
    caller = gate.caller(f"Bearer {first}")
    second = add(path, KeyRecord(name="second"))
    assert gate.reload()
    assert gate.caller(f"Bearer {second}").name == "second"
    assert gate.holds(caller)
    revoke(path, "first")
    assert gate.reload()
    assert not gate.holds(caller)
    with pytest.raises(NotAuthenticated):
        gate.caller(f"Bearer {first}")
    path.write_text("- broken: [")
    assert not gate.reload()
    assert gate.caller(f"Bearer {second}").name == "second"


def test_a_quota_changes_without_a_restart(path: Path) -> None:
    key = add(path, KeyRecord(name="phone", requests_per_minute=5))
    gate = Gate(path)
    caller = gate.caller(f"Bearer {key}")
    text = path.read_text().replace("requests_per_minute: 5", "requests_per_minute: 70")
    path.write_text(text)
    assert gate.reload()
    assert caller.usage.headers()["x-ratelimit-limit-requests"] == "70"


def test_the_command_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ["--file", str(path)]
    assert run(["add", "phone", *file, "--max-sessions", "3", "--slo-class", "batch"]) == 0
    key = capsys.readouterr().out.strip()
    assert Gate(path).caller(f"Bearer {key}").name == "phone"
    assert run(["add", "ops", *file, "--operator"]) == 0
    capsys.readouterr()
    assert run(["list", *file]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "phone  user  max_sessions=3  slo_classes=['batch']",
        "ops  operator  max_sessions=8",
    ]
    assert run(["revoke", "phone", *file]) == 0
    with pytest.raises(NotAuthenticated):
        Gate(path).caller(f"Bearer {key}")
    with pytest.raises(ConfigError, match="no key 'tablet'"):
        run(["revoke", "tablet", *file])
    assert run(["revoke", "tablet", *file, "--certificate"]) == 0
