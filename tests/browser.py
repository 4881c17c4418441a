"""A headless Chromium that opens one page and tells what happened there; over the DevTools protocol on two pipes, standard library only."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--remote-debugging-pipe")
SECONDS = 120.0


def chromium() -> str:
    """QSIM_CHROMIUM, or what is on PATH. Skips where there is none."""
    found = os.environ.get("QSIM_CHROMIUM") or next((p for n in NAMES if (p := shutil.which(n))), None)
    if not found:
        pytest.skip("no Chromium on PATH, and QSIM_CHROMIUM is not set (Debian: apt install chromium-headless-shell)")
    return found


class Browser:
    """events: all that the page reported. Use as a context manager."""

    def __init__(self, folder: Path):
        mine, theirs = os.pipe(), os.pipe()  # commands to fd 3, answers from fd 4
        self._out, self._in = mine[1], theirs[0]
        command = f'exec "$0" "$@" 3<&{mine[0]} 4>&{theirs[1]}'
        arguments = [chromium(), *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, *arguments], pass_fds=(mine[0], theirs[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(mine[0])
        os.close(theirs[1])
        self.events: list[dict[str, Any]] = []
        self._number, self._buffer, self._session = 0, b"", ""

    def __enter__(self) -> Browser:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.kill()
        self._process.wait()

    def open(self, path: Path) -> None:
        """Shows a file and waits until it is loaded."""
        self.ask("Page.navigate", url=path.resolve().as_uri())
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self._read()

    def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until an expression is true in the page."""
        end = time.monotonic() + SECONDS
        while not self.value(expression):
            assert time.monotonic() < end, f"never true: {expression}; {self.complaints()}"
            time.sleep(0.1)

    def complaints(self) -> list[str]:
        """Errors and warnings that the page put on the console, and exceptions."""
        found = []
        for e in self.events:
            p = e["params"]
            if e["method"] == "Runtime.exceptionThrown":
                found.append(str(p["exceptionDetails"]))
            elif e["method"] == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning", "assert"):
                found.append(str(p["args"]))
            elif e["method"] == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"):
                found.append(p["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """What the page asked for, itself and what it holds inline left out."""
        urls = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [u for u in urls[1:] if not u.startswith(("data:", "blob:"))]

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        asked = {"id": self._number, "method": method, "params": params} | ({"sessionId": self._session} if self._session else {})
        os.write(self._out, json.dumps(asked).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]

    def _read(self) -> dict[str, Any]:
        """The next message; events are kept."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], SECONDS)
            part = os.read(self._in, 1 << 16) if ready else b""
            assert part, "the browser ended or does not answer"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        found = json.loads(text)
        if "method" in found:
            self.events.append(found)
        return found
