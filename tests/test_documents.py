"""The documents can be skimmed, their links lead somewhere, and their tables leave nothing out."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
MAX_WORDS = 80  # of a paragraph; chosen: what a reader takes in without losing the thread
MAX_README_MEDIAN = 16  # words; chosen: what well-liked projects of this kind keep to

_FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
_FOLDERS = "wisp|proto|configs|docs|benchmarks|training|tests"
_NAMED = re.compile(rf"`((?:{_FOLDERS})/[\w./-]*)`")


def paragraphs(text: str) -> list[str]:
    """Paragraphs and list items, each on its own; no code, table or heading."""
    text = _COMMENT.sub("", _FENCE.sub("\n", text))
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if not line.strip() or line.startswith(("#", "|", "![")):
            found.append([])
        elif _ITEM.match(line):
            found.append([_ITEM.sub("", line)])
        else:
            found[-1].append(line.strip())
    return [" ".join(lines) for lines in found if lines]


def too_long(text: str) -> list[str]:
    return [each for each in paragraphs(text) if len(each.split()) > MAX_WORDS]


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = [heading.lower() for heading in _HEADING.findall(_FENCE.sub("\n", text))]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def dead_links(text: str, folder: Path) -> list[str]:
    """Relative links to a file that is not there, or to a heading that its page does not have."""
    dead = []
    for link in _LINK.findall(_FENCE.sub("\n", text)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        path = folder / name if name else None
        page = text if path is None else path.read_text() if path.suffix == ".md" else ""
        if (path and not path.exists()) or (anchor and anchor not in anchors(page)):
            dead.append(link)
    return dead


def missing_files(text: str) -> list[str]:
    """Files and folders of this repository that stand in backticks and do not exist."""
    return [name for name in _NAMED.findall(text) if not (ROOT / name).exists()]


def rows(text: str) -> dict[str, list[str]]:
    """The table rows of a document, by what stands in backticks in their first cell."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `"):
            for name in re.findall(r"`([^`]+)`", cells[0]):
                found[name] = cells
    return found


def settings(path: Path) -> dict[str, Any]:
    """Every key of a settings file with its default; one that is commented out has none."""
    text = re.sub(r"^# (\w+): \S+", r"\1: null", path.read_text(), flags=re.MULTILINE)
    return flat(yaml.safe_load(text))


def flat(section: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict) and value and key != "slo_classes":
            found |= flat(value, f"{above}{key}.")
        else:
            found[above + key] = value
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
class TestEachDocument:
    def test_no_paragraph_is_too_long(self, document: Path) -> None:
        assert not too_long(document.read_text())

    def test_links_lead_somewhere(self, document: Path) -> None:
        assert not dead_links(document.read_text(), document.parent)

    def test_the_files_that_it_names_exist(self, document: Path) -> None:
        assert not missing_files(document.read_text())


def test_the_readme_can_be_skimmed() -> None:
    lengths = [len(each.split()) for each in paragraphs((ROOT / "README.md").read_text())]
    assert statistics.median(lengths) <= MAX_README_MEDIAN


@pytest.mark.parametrize("name", ["server", "edge", "demo"])
def test_every_setting_is_explained_with_its_default(name: str) -> None:
    explained = rows(section((ROOT / "docs" / "operating.md").read_text(), f"wisp {name}"))
    for key, default in settings(ROOT / "configs" / f"{name}.yaml").items():
        assert key in explained, key
        if default is not None and key != "slo_classes":
            assert yaml.safe_load(explained[key][1].strip("`")) == default, key


def section(text: str, words: str) -> str:
    """From the heading that has these words to the next one of its level."""
    found = re.search(rf"^(#+) .*{re.escape(words)}.*$", text, re.MULTILINE)
    assert found, f"no heading has '{words}'"
    rest = text[found.end() :]
    end = re.search(rf"^{found[1]} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def test_every_metric_is_explained() -> None:
    files = [ROOT / "wisp" / "metrics.py", ROOT / "wisp" / "server" / "server_metrics.py"]
    named = {name for file in files for name in re.findall(r'"(wisp_[a-z_]+)"', file.read_text())}
    explained = rows((ROOT / "docs" / "operating.md").read_text())
    assert named
    assert not named - explained.keys()


def test_every_message_and_field_of_the_wire_is_explained() -> None:
    text = re.sub(r"//.*", "", (ROOT / "proto" / "wisp" / "v1" / "wisp.proto").read_text())
    document = (ROOT / "docs" / "protocol.md").read_text()
    fields = re.findall(r"(\w+) = \d+;", re.sub(r"enum \w+ \{.*?\}", "", text, flags=re.DOTALL))
    for name in [*re.findall(r"(?:message|enum|rpc) (\w+)", text), *fields]:
        assert f"`{name}`" in document, name


def test_every_room_and_every_file_is_on_the_map() -> None:
    document = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [path.name for path in (ROOT / "wisp").iterdir() if (path / "__init__.py").exists()]
    assert not [room for room in rooms if f"`wisp/{room}/`" not in document]
    files = [path.relative_to(ROOT) for path in (ROOT / "wisp").rglob("*.py")]
    written = [file for file in files if file.name != "__init__.py" and "v1" not in file.parts]
    assert not [str(file) for file in written if f"`{file}`" not in document]


def test_every_page_of_measurements_is_in_the_index() -> None:
    folder = ROOT / "docs" / "measurements"
    linked = set(_LINK.findall((folder / "README.md").read_text()))
    pages = {path.name for path in folder.glob("*.md")} - {"README.md"}
    assert not pages - {link.partition("#")[0] for link in linked}


class TestTheChecks:
    """They find what they are there to find."""

    def test_a_long_paragraph(self) -> None:
        text = "# Title\n\n" + "word " * 50 + "\n" + "word " * 31 + "\n\nshort\n"
        assert len(too_long(text)) == 1
        assert not too_long(text.replace("\nword", "\n\nword"))

    def test_a_long_list_item(self) -> None:
        item = "- " + "word " * 60 + "\n"
        assert not too_long(item + item)
        assert len(too_long(item + "  " + "word " * 21)) == 1

    def test_code_and_tables_are_no_paragraphs(self) -> None:
        words = "word " * 90
        assert paragraphs(f"```\n{words}\n```\n\n| {words} |\n\n# {words}\n") == []

    def test_a_dead_link(self) -> None:
        text = "# One thing\n[a](b.md) [c](LICENSE) [d](#one-thing) [e](#another) [f](https://x)"
        assert dead_links(text.replace("[a](b.md)", ""), ROOT) == ["#another"]
        assert dead_links("[a](no-picture.svg) [c](LICENSE)", ROOT) == ["no-picture.svg"]

    def test_a_file_that_is_not_there(self) -> None:
        assert missing_files("`wisp/errors.py` and `wisp/no_such_file.py`") == [
            "wisp/no_such_file.py"
        ]
