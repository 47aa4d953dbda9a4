"""All that an edge installs can be had for arm64: as wheels, or built from source by pip."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# glibc of Debian 12 and of Raspberry Pi OS of the same age: PEP 600's platform tags up to it.
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in range(17, 37)] + ["manylinux2014_aarch64"]
FROM_SOURCE = {"llama-cpp-python"}  # by definition of the extra: it is source for every processor


def requirements(*extras: str) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = list(project["dependencies"])
    for extra in extras:
        found += project["optional-dependencies"][extra]
    return [each for each in found if re.split(r"[\[<>=]", each)[0] not in FROM_SOURCE]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("extras", [(), ("llama",), ("torch",)], ids=["edge", "llama", "torch"])
def test_every_pin_has_a_wheel(tmp_path: Path, extras: tuple[str, ...]) -> None:
    """Nothing is downloaded but what packages say of themselves, where the index has that."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--python-version=3.11"]
    command += ["--implementation=cp", f"--target={tmp_path / 'none'}", f"--report={report}"]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    # What torch asks for beside itself on a GPU has no part in an edge on a CPU.
    command += ["--no-deps"] if "torch" in extras else []
    command += ["-c", str(ROOT / "constraints.txt"), *requirements(*extras)]
    subprocess.run(command, check=True)
    files = [
        each["download_info"]["url"].rpartition("/")[2]
        for each in json.loads(report.read_text())["install"]
    ]
    assert len(files) >= len(requirements(*extras))
    assert all(name.endswith(("-any.whl", "_aarch64.whl")) for name in files), files


def test_the_code_names_no_processor() -> None:
    """An edge's own code runs on whatever Python, numpy and its engine run on."""
    pattern = re.compile(r"x86|amd64|avx|\bsse\d|\bmkl\b", re.IGNORECASE)
    for path in (ROOT / "wisp" / "edge").rglob("*.py"):
        lines = path.read_text().splitlines()
        assert not [line for line in lines if pattern.search(line.partition("#")[0])], path
