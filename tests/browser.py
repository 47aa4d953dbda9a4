"""A headless Chromium, spoken to over its DevTools pipe: no driver and no library between."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
)


class Page:
    """One tab; `events` are what it has told of itself since `listen` or the last look at them."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> Any:
        return self._browser.call(method, params, self._session)

    def open(self, url: str, width: int, height: int, *, dark: bool = False) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        since = len(self.events)
        self.call("Page.navigate", url=url)
        wait_until(lambda: self._has_loaded(since), f"{url} is loaded")

    def _has_loaded(self, since: int) -> bool:
        """Its scripts have run, too. `since`: of the events before it was asked for."""
        self.call("Page.getLayoutMetrics")  # what the browser has told is read behind an answer
        return any(event["method"] == "Page.loadEventFired" for event in self.events[since:])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; raises AssertionError if it throws."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    @property
    def requests(self) -> list[str]:
        """The addresses it has asked for."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]

    @property
    def complaints(self) -> list[str]:
        """What stands in its console as a warning or an error, uncaught exceptions included."""
        found = []
        for event in self.events:
            params = event["params"]
            match event["method"]:
                case "Runtime.exceptionThrown":
                    found.append(params["exceptionDetails"]["exception"]["description"])
                case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                    found.append(str(params["args"]))
                case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                    found.append(params["entry"]["text"])
        return found


class Browser:
    def __init__(self, into: int, out: int) -> None:
        self._into, self._out = os.fdopen(into, "wb"), os.fdopen(out, "rb")
        self._pages: dict[str, Page] = {}
        self._num_calls = 0
        self._rest = b""

    def close(self) -> None:
        self._into.close()
        self._out.close()

    def page(self, *, beside: bool = False) -> Page:
        """In a window of its own, or as a tab that hides the others of the last window."""
        wanted = {"url": "about:blank", "newWindow": not beside}
        target = self.call("Target.createTarget", wanted)["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        session = attached["sessionId"]
        self._pages[session] = Page(self, session)
        return self._pages[session]

    def call(self, method: str, params: dict[str, Any], session: str | None = None) -> Any:
        self._num_calls += 1
        message: dict[str, Any] = {"id": self._num_calls, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        self._into.write(json.dumps(message).encode() + b"\0")
        self._into.flush()
        for answer in self._messages():
            if answer.get("id") == self._num_calls:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            if page := self._pages.get(answer.get("sessionId", "")):
                page.events.append(answer)
        raise AssertionError("the browser has ended")

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            while b"\0" not in self._rest:
                part = self._out.read1(1 << 20)
                if not part:
                    return
                self._rest += part
            line, _, self._rest = self._rest.partition(b"\0")
            yield json.loads(line)


def _pipe() -> tuple[int, int]:
    """Numbers above ten: the shell below puts them to 3 and 4 without treading on either."""
    return tuple(_moved(end) for end in os.pipe())  # type: ignore[return-value]


def _moved(end: int) -> int:
    number = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(end)
    return number


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Skips the test where there is none."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    commands, into = _pipe()
    out, answers = _pipe()
    running = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "-", program, *_FLAGS,
         f"--user-data-dir={profile}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(commands, answers),
    )  # fmt: skip
    os.close(commands)
    os.close(answers)
    browser = Browser(into, out)
    try:
        yield browser
        browser.call("Browser.close", {})
    finally:
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        browser.close()
