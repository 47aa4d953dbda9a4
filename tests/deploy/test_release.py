"""The wheel works without the repository, and what a release tells is true."""

from __future__ import annotations

import json
import os
import plistlib
import re
import shutil
import site
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from wisp import __version__
from wisp.config import EdgeConfig, ServerConfig, load

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the place of an image's root, in which the Dockerfile's stage `wheel` has run."""
    root = tmp_path_factory.mktemp("image")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    wanted = tuple(line.removeprefix("!") for line in lines if line.startswith("!"))
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and name.split("/")[0] in wanted:
            (root / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / "src" / name)
    for command in commands("wheel"):
        run(root, command)
    return root


def commands(stage: str) -> list[str]:
    """The RUN lines of a stage of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text()
    found = re.search(rf"^FROM \S+ AS {stage}\n(.*?)(?=^FROM |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, stage
    return re.findall(r"^RUN (.*)$", found[1], re.MULTILINE)


def run(root: Path, command: str) -> None:
    """With the image's folders in `root`, and what was downloaded before kept."""
    for folder in ("opt", "src", "dist"):
        command = command.replace(f"/{folder}", f"{root}/{folder}")
    command = command.replace("--no-cache-dir", "")
    done = subprocess.run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            command.replace("python -m venv", f"{sys.executable} -m venv"),
        ],
        cwd=root / "src",
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, command + done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(image: Path) -> Path:
    (found,) = (image / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the wheel; its dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    (library,) = (folder / "lib").glob("python*/site-packages")
    # Behind the wheel's own files, and without the pointers to this repository that are in there.
    (library / "rest.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return python


def outside(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """From a folder that has nothing of the repository."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *arguments],
        cwd=python.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_answers_without_the_repository(python: Path) -> None:
    where = outside(python, "-c", "import wisp; print(wisp.__file__)").stdout
    assert str(python.parent.parent) in where
    for program in ("wisp", "wisp-server", "wisp-edge"):
        told = outside(python, str(python.parent / program), "--help")
        assert told.returncode == 0, told.stderr
    told = outside(
        python, "-m", "wisp.cli", "demo", "--pair=tiny", "--requests=1", "--max_tokens=8", "--json"
    )
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["lossless"] is True


def test_the_commands_of_the_cpu_image_run(image: Path) -> None:
    """But for what fetches torch: without it all is there that an edge on llama.cpp needs, too."""
    venv, hashed, install, torch, compiled = commands("cpu")
    assert torch.endswith(" torch")
    assert "--require-hashes" in hashed
    assert {hashed, install} < set(commands("llama"))
    for command in (venv, hashed, install, compiled):
        run(image, command)
    python = image / "opt" / "wisp" / "bin" / "python"
    told = outside(python, "-m", "wisp.cli", "server", "--help")
    assert told.returncode == 0, told.stderr
    checked = outside(python, "-m", "pip", "check")
    assert checked.returncode == 0, checked.stdout


def test_the_dockerfile_passes_its_linter(tools: Path) -> None:
    command = [str(tools / "hadolint"), "--failure-threshold", "error", str(ROOT / "Dockerfile")]
    linted = subprocess.run(command, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout


def test_compose_takes_its_file_and_finds_what_it_mounts(tools: Path) -> None:
    path = ROOT / "deploy" / "compose" / "compose.yaml"
    command = [str(tools / "docker-compose"), "-f", str(path), "config", "--format", "json"]
    read = subprocess.run(command, capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr
    services = json.loads(read.stdout)["services"]
    mounts = [mount for each in services.values() for mount in each.get("volumes", ())]
    assert all(Path(each["source"]).exists() for each in mounts if each["type"] == "bind")
    stages = set(re.findall(r"AS (\S+)", (ROOT / "Dockerfile").read_text()))
    assert {each["build"]["target"] for each in services.values() if "build" in each} <= stages
    with pytest.MonkeyPatch.context() as patch:
        for name in ("server", "edge-1"):
            for key, value in services[name]["environment"].items():
                patch.setenv(key, value)
        assert load(ServerConfig, [], "wisp-server").http.host == "0.0.0.0"
        assert load(EdgeConfig, [], "wisp-edge").http.host == "0.0.0.0"
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yaml").read_text())
    hosts = {
        target.partition(":")[0]
        for job in scraped["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    }
    assert hosts == {"server", "edge-1", "edge-2"}


def test_the_units_pass_systemds_own_check(image: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed")
    for unit in (ROOT / "deploy" / "systemd").glob("*.service"):
        copy = image / unit.name
        # The programs that it starts lie elsewhere here.
        copy.write_text(unit.read_text().replace("/opt/wisp/bin/", f"{image}/opt/wisp/bin/"))
        for command in ("verify", "security --offline=true --threshold=25"):
            checked = subprocess.run(
                ["systemd-analyze", *command.split(), str(copy)],
                capture_output=True,
                text=True,
                check=False,
            )
            assert checked.returncode == 0, checked.stdout[-500:] + checked.stderr


def test_the_property_list_starts_an_edge_as_the_unit_does() -> None:
    with open(ROOT / "deploy" / "launchd" / "wisp-edge.plist", "rb") as file:
        told = plistlib.load(file)
    unit = (ROOT / "deploy" / "systemd" / "wisp-edge.service").read_text()
    assert f"ExecStart={' '.join(told['ProgramArguments'])}\n" in unit
    assert f"TimeoutStopSec={told['ExitTimeOut']}\n" in unit


def test_the_wheel_brings_what_it_needs_and_its_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert f"wisp_serving-{__version__}" in wheel.name
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "deploy/"))]
    for wanted in ("LICENSE", "NOTICE", "THIRD_PARTY.md"):
        assert [name for name in names if name.endswith(f"licenses/{wanted}")], wanted
    assert [name for name in names if re.match(r"wisp/models/tiny/target/.*safetensors", name)]


def test_the_version_stands_in_one_place() -> None:
    """`wisp.__version__`; what repeats it, because it must, is compared."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    chart = yaml.safe_load((ROOT / "deploy" / "helm" / "wisp" / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


def test_the_changes_begin_with_what_comes_next() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == f"{__version__}, not released yet"


def test_every_dependency_has_its_notice() -> None:
    """Of the programs themselves; the extras bring their own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[>=<\[ ]", each)[0] for each in project["dependencies"]]
    notices = (ROOT / "THIRD_PARTY.md").read_text()
    assert not [name for name in names if f"| {name} |" not in notices]
