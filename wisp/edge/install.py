"""wisp-edge install-service: an edge that the system starts, and starts again if it ends."""

from __future__ import annotations

import argparse
import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wisp.config import EdgeConfig, load
from wisp.errors import ConfigError
from wisp.files import write_whole

UNITS = Path(__file__).parent / "units"
# What stands in the units for the program and its settings.
_PROGRAM, _SETTINGS = "/opt/wisp/bin/wisp-edge", "/etc/wisp/edge.yaml"
# What only the system's own systemd can grant, or has: the user's refuses to start a unit with some
# of it, and leaves the rest out.
_OF_THE_SYSTEM = ("Private", "Protect", "DynamicUser", "CapabilityBoundingSet", "After", "Wants")
# Folders and variables of a unit whose home is not the user's own.
_OF_NO_USER = ("StateDirectory", "ConfigurationDirectory", "Environment")
# What `ProtectHome=` hides from a unit of the system, by systemd.exec(5).
_HOMES = ("/home", "/root", "/run/user")


@dataclass(frozen=True)
class EdgeService:
    """A file that tells the system of an edge, and the commands that make it read that."""

    path: Path
    content: bytes
    commands: tuple[tuple[str, ...], ...]


def run(arguments: Sequence[str]) -> int:
    """The exit code. Raises ConfigError where there is nothing to install, or it may not be."""
    parser = argparse.ArgumentParser(
        prog="wisp-edge install-service",
        description="Let systemd or launchd start this edge, and start it again if it ends.",
    )
    parser.add_argument("--config", type=Path, help="its settings; otherwise where they belong")
    parser.add_argument("--system", action="store_true", help="for the machine, not for this user")
    parser.add_argument("--dry-run", action="store_true", help="print the file, change nothing")
    args = parser.parse_args(arguments)
    settings = (args.config or default_settings(args.system)).absolute()
    service = describe(program(), settings, args.system, sys.platform)
    if args.dry_run:
        print(f"# {service.path}")
        print(service.content.decode(), end="")
        for command in service.commands:
            print(f"# {' '.join(command)}")
        return 0
    if not settings.is_file():
        raise ConfigError(
            f"there is no '{settings}': write the edge's settings there, its `server`"
        )
    load(EdgeConfig, ["--config", str(settings)], "wisp-edge")  # before the service stumbles on it
    install(service)
    print(f"{service.path}: the edge runs, with the settings of {settings}")
    return 0


def default_settings(system: bool) -> Path:
    if system:
        return Path(_SETTINGS)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "wisp" / "edge.yaml"


def program() -> Path:
    """Of this environment: pipx and uv keep it where it is when they upgrade."""
    return Path(sys.prefix) / "bin" / "wisp-edge"


def describe(program: Path, settings: Path, system: bool, platform: str) -> EdgeService:
    """Raises ConfigError if the system's service would not see the program."""
    if platform == "darwin":
        return _launchd(program, settings, system)
    if not system:
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        text = _of_user((UNITS / "wisp-edge.service").read_text())
        path = Path(base) / "systemd" / "user" / "wisp-edge.service"
    else:
        if any(program.is_relative_to(home) for home in _HOMES):
            raise ConfigError(
                f"a service of the machine does not see '{program}': install WISP outside of "
                f"{', '.join(_HOMES)}, as with `pipx install --global`, or leave --system out"
            )
        text = (UNITS / "wisp-edge.service").read_text()
        path = Path("/etc/systemd/system/wisp-edge.service")
    start = f"ExecStart={_PROGRAM} --config {_SETTINGS}"
    assert start in text
    text = text.replace(start, f"ExecStart={_quoted(program)} --config {_quoted(settings)}")
    manager = ("systemctl",) if system else ("systemctl", "--user")
    commands = (*manager, "daemon-reload"), (*manager, "enable", "--now", "wisp-edge")
    return EdgeService(path, text.encode(), commands)


def _of_user(unit: str) -> str:
    """The unit as the systemd of one user takes it."""
    lines = [
        line
        for line in unit.splitlines()
        if not line.startswith((*_OF_THE_SYSTEM, *_OF_NO_USER, "#"))
    ]
    return "\n".join(lines).replace("multi-user.target", "default.target") + "\n"


def _quoted(path: Path) -> str:
    """As systemd.service(5) reads a word of a command."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if " " in escaped else escaped


def _launchd(program: Path, settings: Path, system: bool) -> EdgeService:
    told = plistlib.loads((UNITS / "wisp-edge.plist").read_bytes())
    told["ProgramArguments"] = [str(program), "--config", str(settings)]
    if system:
        folder, domain = Path("/Library/LaunchDaemons"), "system"
    else:
        folder, domain = Path.home() / "Library" / "LaunchAgents", f"gui/{os.getuid()}"
    path = folder / "wisp-edge.plist"
    return EdgeService(path, plistlib.dumps(told), (("launchctl", "bootstrap", domain, str(path)),))


def install(service: EdgeService) -> None:
    """Raises ConfigError if it may not be, or the system refuses it."""
    manager = service.commands[0][0]
    if not shutil.which(manager):
        raise ConfigError(f"there is no {manager} here: --dry-run prints what it would be given")
    try:
        write_whole(service.path, service.content, 0o644)
    except PermissionError as error:
        raise ConfigError(f"'{service.path}' may not be written: ask as root") from error
    for command in service.commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise ConfigError(f"{service.path} is there, but `{' '.join(command)}` failed: {said}")
