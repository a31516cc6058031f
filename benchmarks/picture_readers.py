"""Two readers of images beside Candor: OpenCV, and the canvas of a browser.

Each answers with uint8 (H, W, 3), RGB over white as displayed, or None for what it does not read.
"""

import base64
import json
import subprocess
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import UInt8
from playwright.sync_api import Browser

from support.environments import python_of

Pixels = UInt8[np.ndarray, "H W 3"]

DRAW = """async (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const bitmap = await createImageBitmap(new Blob([bytes])).catch(() => null);
    if (bitmap === null) return null;
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { colorSpace: "srgb", willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, bitmap.width, bitmap.height);
    context.drawImage(bitmap, 0, 0);
    const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
    const parts = [];
    for (let start = 0; start < data.length; start += 32768)
        parts.push(String.fromCharCode(...data.subarray(start, start + 32768)));
    return { width: bitmap.width, height: bitmap.height, text: btoa(parts.join("")) };
}"""


class OpenCV:
    """OpenCV in a process of an environment of its own."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [python_of("opencv"), Path(__file__).parent / "opencv_reader.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def read(self, path: Path) -> Pixels | None:
        """The pixels of the file."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{path}\n".encode())
        self._process.stdin.flush()
        shape = json.loads(self._process.stdout.readline())
        if shape is None:
            return None
        return np.frombuffer(self._process.stdout.read(int(np.prod(shape))), np.uint8).reshape(
            shape
        )


class Canvas:
    """The canvas of a browser, which applies colour profiles."""

    def __init__(self, browser: Browser) -> None:
        self._page = browser.new_page()
        self._page.goto("about:blank")

    def read(self, path: Path) -> Pixels | None:
        """The pixels of the file."""
        drawn = self._page.evaluate(DRAW, base64.b64encode(path.read_bytes()).decode())
        if drawn is None:
            return None
        samples = np.frombuffer(base64.b64decode(drawn["text"]), np.uint8)
        return samples.reshape(drawn["height"], drawn["width"], 4)[..., :3]
