"""Tool calls in the text of an answer: the formats that models write them in, behind one interface.

A format is a parser of text as it comes. What is no call after all is text: nothing is lost.
"""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from wisp.openai.fields import Json


@dataclass(frozen=True, slots=True)
class Call:
    """One finished call of a function; `arguments` is a JSON object, written as a string."""

    id: str
    name: str
    arguments: str


Parsed = tuple[str, list[Call]]  # text that is no call, and the calls that are complete


class ToolParser(ABC):
    @abstractmethod
    def add(self, text: str) -> Parsed:
        """What the next piece of text makes certain."""

    @abstractmethod
    def flush(self) -> Parsed:
        """The answer is over: what is left."""

    @classmethod
    def tags_of(cls, tools: list[Json]) -> Json | None:
        """What keeps the calls in a free text to the tools' schemas, in xgrammar's words.

        None: calls in this format cannot be told from text before they are complete.
        """
        return None


class Hermes(ToolParser):
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, between texts: Hermes, Qwen."""

    _BEGIN, _END = "<tool_call>", "</tool_call>"

    @classmethod
    def tags_of(cls, tools: list[Json]) -> Json | None:
        tags = [
            {
                "type": "tag",
                "begin": f'{cls._BEGIN}\n{{"name": {json.dumps(tool["name"])}, "arguments": ',
                "content": {"type": "json_schema", "json_schema": _schema_of(tool)},
                "end": f"}}\n{cls._END}",
            }
            for tool in tools
        ]
        form = {"type": "triggered_tags", "triggers": [cls._BEGIN], "tags": tags}
        return {"type": "structural_tag", "format": form}

    def __init__(self) -> None:
        self._held = ""
        self._inside = False

    def add(self, text: str) -> Parsed:
        self._held += text
        given, calls = "", []
        while True:
            before, mark, behind = self._held.partition(self._END if self._inside else self._BEGIN)
            if not mark:
                break
            if self._inside:
                found = _calls(before)
                calls += found
                given += "" if found else self._BEGIN + before + self._END
            else:
                given += before
            self._inside = not self._inside
            self._held = behind
        if not self._inside:
            keep = _overlap(self._held, self._BEGIN)
            cut = len(self._held) - keep
            given, self._held = given + self._held[:cut], self._held[cut:]
        return given, calls

    def flush(self) -> Parsed:
        held, self._held = self._held, ""
        if not self._inside:
            return held, []
        calls = _calls(held)  # the end mark may be what the model was stopped at
        return ("" if calls else self._BEGIN + held), calls


class WholeJson(ToolParser):
    """The whole answer is one call or a list of them: Llama 3's JSON, Mistral, enforced structures.

    The name is under `name`, the arguments are under `arguments` or `parameters`. Each call of a
    list comes when it is complete; so an answer that is cut off has those before the cut.
    """

    _MARKS = ("<|python_tag|>", "[TOOL_CALLS]")

    def __init__(self, name: str | None = None) -> None:
        self._name = name  # of the one function that can be called: the answer is its arguments
        self._held = ""
        self._is_text = False
        self._has_calls = False  # of a list, whose rest is held

    def add(self, text: str) -> Parsed:
        if self._is_text:
            return text, []
        self._held += text
        begun = self._held.lstrip()
        if self._has_calls or begun.startswith(("[{", "[", *self._MARKS)):
            return "", self._listed()
        if not begun or begun[0] == "{" or any(mark.startswith(begun) for mark in self._MARKS):
            return "", []
        self._is_text = True
        return self._take(), []

    def flush(self) -> Parsed:
        held = self._take()
        if self._has_calls:
            return "", []  # the end of the list, or the beginning of a call that was cut off
        calls = _calls(self._unmarked(held), self._name)
        return ("" if calls else held), calls

    def _listed(self) -> list[Call]:
        """The calls of a list that are complete by now."""
        rest = self._unmarked(self._held)
        if self._name is not None or not (self._has_calls or rest.startswith("[")):
            return []
        calls: list[Call] = []
        rest = rest if self._has_calls else rest[1:]
        while (item := rest.lstrip(", \n\r\t")).startswith("{"):
            try:
                data, end = json.JSONDecoder().raw_decode(item)
            except ValueError:
                break
            call = _read(data)
            if call is None:
                break
            calls.append(call)
            self._has_calls, self._held = True, item[end:]
            rest = self._held
        return calls

    def _unmarked(self, text: str) -> str:
        begun = text.strip()
        for mark in self._MARKS:
            begun = begun.removeprefix(mark).lstrip()
        return begun

    def _take(self) -> str:
        held, self._held = self._held, ""
        return held


FORMATS: dict[str, type[ToolParser]] = {
    "hermes": Hermes,
    "llama3_json": WholeJson,
    "mistral": WholeJson,
}


def format_of(template: str) -> type[ToolParser]:
    """The one that a chat template teaches its model; most models that teach none write JSON."""
    return Hermes if Hermes._BEGIN in template else WholeJson


def structure_of(tools: list[Json], *, several: bool) -> Json:
    """The JSON schema of an answer that calls at least one of the tools."""
    items = [
        {
            "type": "object",
            "properties": {
                "name": {"enum": [tool["function"]["name"]]},
                "parameters": _schema_of(tool["function"]),
            },
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    schema: Json = {"type": "array", "minItems": 1, "items": {"anyOf": items}}
    return schema if several else schema | {"maxItems": 1}


def _schema_of(function: Json) -> Json:
    schema: Json = function.get("parameters") or {"type": "object"}
    return schema


def _calls(text: str, name: str | None = None) -> list[Call]:
    """Of JSON text; nothing if it is none, or if any of it is no call."""
    try:
        data = json.loads(text)
    except ValueError:
        return []
    if name is not None:
        return [_call(name, data)] if isinstance(data, dict) else []
    found = [_read(item) for item in (data if isinstance(data, list) else [data])]
    calls = [call for call in found if call is not None]
    return calls if len(calls) == len(found) else []


def _read(data: Any) -> Call | None:
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        return None
    arguments = data.get("arguments", data.get("parameters", {}))
    return _call(data["name"], arguments) if isinstance(arguments, dict | str) else None


def _call(name: str, arguments: dict[str, Any] | str) -> Call:
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return Call(f"call_{uuid.uuid4().hex}", name, arguments)


def _overlap(text: str, mark: str) -> int:
    """How many of the text's last characters may be the beginning of the mark."""
    longest = min(len(text), len(mark) - 1)
    return next((n for n in range(longest, 0, -1) if mark.startswith(text[-n:])), 0)
