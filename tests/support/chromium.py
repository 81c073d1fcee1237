"""A headless Chromium, driven through its DevTools protocol over one websocket."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from websockets.sync.client import ClientConnection, connect

START_SECONDS = 40


def find_chromium() -> str | None:
    """The browser's command, if there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result; what goes wrong meanwhile is kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=30))
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(answer["params"]["exceptionDetails"]["text"])
            entry = answer.get("params", {}).get("entry", {})
            if answer.get("method") == "Log.entryAdded" and entry["level"] == "error":
                self.errors.append(f"{entry['text']} {entry.get('url', '')}")
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 20) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.1)

    def choose_files(self, selector: str, files: list[Path]) -> None:
        """Give files to an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def resize(self, width: int, height: int) -> None:
        """Set the viewport, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def screenshot(self) -> bytes:
        """A PNG of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def pdf(self) -> bytes:
        """What printing gives."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])


@contextmanager
def open_page(command: str, url: str, profile: Path) -> Generator[Page]:
    """Start the browser on a page; it ends with the block."""
    flags = ["--headless=new", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium has no sandbox for root
    log = (profile.parent / "chromium.log").open("w")
    process = subprocess.Popen(
        [command, *flags, f"--user-data-dir={profile}", "about:blank"], stdout=log, stderr=log
    )
    try:
        port = _port(profile / "DevToolsActivePort")
        tab = requests.put(f"http://127.0.0.1:{port}/json/new?{url}", timeout=10).json()
        with connect(tab["webSocketDebuggerUrl"], max_size=2**26) as socket:
            page = Page(socket)
            page.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")
            yield page
    finally:
        process.terminate()
        process.wait(timeout=10)
        log.close()


def _port(file: Path) -> int:
    end = time.monotonic() + START_SECONDS
    while not file.exists() or not file.read_text().strip():
        assert time.monotonic() < end, "Chromium does not start"
        time.sleep(0.1)
    return int(file.read_text().splitlines()[0])
