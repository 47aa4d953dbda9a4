from __future__ import annotations

import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wisp import cli
from wisp.edge.install import describe, run
from wisp.errors import ConfigError


def words(unit: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit.splitlines() if line[:1].isalpha())


def test_a_users_service_asks_for_nothing_that_a_user_cannot_have() -> None:
    service = describe(Path("/home/me/my venv/bin/wisp-edge"), Path("/x/100%"), False, "linux")
    told = words(service.content.decode())
    assert told["ExecStart"] == '"/home/me/my venv/bin/wisp-edge" --config /x/100%%'
    assert told["WantedBy"] == "default.target"
    assert (told["Type"], told["WatchdogSec"]) == ("notify", "30")
    assert not {"DynamicUser", "StateDirectory", "ProtectHome", "PrivateTmp", "After"} & set(told)
    assert service.commands[0] == ("systemctl", "--user", "daemon-reload")


def test_a_service_of_the_machine_is_the_unit_of_the_repository() -> None:
    service = describe(Path("/opt/w/bin/wisp-edge"), Path("/etc/wisp/edge.yaml"), True, "linux")
    told = words(service.content.decode())
    assert told["ExecStart"] == "/opt/w/bin/wisp-edge --config /etc/wisp/edge.yaml"
    assert (told["DynamicUser"], told["ProtectHome"]) == ("yes", "yes")
    with pytest.raises(ConfigError, match="does not see"):
        describe(Path("/home/me/bin/wisp-edge"), Path("/etc/wisp/edge.yaml"), True, "linux")


def test_launchd_is_told_the_same() -> None:
    service = describe(Path("/p/wisp-edge"), Path("/s.yaml"), False, "darwin")
    told = plistlib.loads(service.content)
    assert told["ProgramArguments"] == ["/p/wisp-edge", "--config", "/s.yaml"]
    assert told["KeepAlive"] == {"SuccessfulExit": False}
    assert service.path.parts[-3:] == ("Library", "LaunchAgents", "wisp-edge.plist")
    assert service.commands[0][:2] == ("launchctl", "bootstrap")


def test_a_dry_run_prints_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["wisp-edge", "install-service", "--dry-run"])
    assert cli.edge() == 0
    assert f"--config {tmp_path}/wisp/edge.yaml" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="it asks systemd")
def test_it_is_written_and_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a systemctl that notes what it is asked."""
    programs = tmp_path / "bin"
    programs.mkdir()
    asked = tmp_path / "asked"
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    (programs / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with pytest.raises(ConfigError, match="write the edge's settings there"):
        run([])
    settings = tmp_path / "config" / "wisp" / "edge.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("sever: typo\n")
    with pytest.raises(ConfigError, match="sever"):
        run([])
    assert not asked.exists()
    settings.write_text("server: gpu-node:8001\n")
    assert run([]) == 0
    unit = tmp_path / "config" / "systemd" / "user" / "wisp-edge.service"
    assert f"--config {settings}" in unit.read_text()
    assert asked.read_text() == "--user daemon-reload\n--user enable --now wisp-edge\n"
    assert str(unit) in capsys.readouterr().out
    (programs / "systemctl").write_text("#!/bin/sh\necho no bus >&2\nexit 1\n")
    with pytest.raises(ConfigError, match="daemon-reload` failed: no bus"):
        run([])


def test_a_users_service_passes_systemds_own_check(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed")
    service = describe(Path("/bin/true"), tmp_path / "edge.yaml", False, "linux")
    unit = tmp_path / service.path.name
    unit.write_bytes(service.content)
    checked = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(unit)],
        env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "Unknown" not in checked.stderr
