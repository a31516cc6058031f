"""Screenshots of the page in the states that a visitor may find it in, to look at.

Five images (familiar, unfamiliar, ambiguous, noise, one for 1,000 classes) in four looks each, on
the tabs Try and Why. Each is judged by axe-core, too.
"""

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from PIL import Image
from playwright.sync_api import FilePayload

from drawings.screenshots import NARROW_HEIGHT, QUALITY, WIDTHS
from service.settings import EMBEDDED, EMBEDDED_BUNDLE
from support.browser import Visit, chromium
from support.images import saved
from support.page import findings
from support.servers import Server

TABS = ("try", "why")
SIDE = 224  # pixels of the images that are made here
SHARE = 0.4  # of the second image in the ambiguous one


class Look(NamedTuple):
    """A colour scheme, a width in CSS pixels and a language."""

    scheme: str
    width: int
    locale: str


LOOKS = (
    Look("light", 1280, "en-GB"),
    Look("dark", 1280, "zh-CN"),
    Look("light", 390, "zh-CN"),
    Look("dark", 390, "en-GB"),
)


@click.command()
@click.argument("into", type=click.Path(path_type=Path, file_okay=False))
def main(into: Path) -> None:
    """Writes STATE-TAB-SCHEME-WIDTH-LANGUAGE.webp into a folder: whole pages.

    Prints what axe-core finds serious.
    """
    into.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for bundle, states in _states().items():
            with (
                tempfile.TemporaryDirectory() as scratch,
                Server(Path(scratch), bundle=bundle) as server,
            ):
                for look in LOOKS:
                    visit = Visit(
                        browser,
                        server.url,
                        color_scheme=look.scheme,
                        locale=look.locale,
                        device_scale_factor=WIDTHS[look.width],
                        viewport={"width": look.width, "height": NARROW_HEIGHT},
                    )
                    for state, content in states.items():
                        for tab, shot in _shots(visit, state, content):
                            name = f"{state}-{tab}-{look.scheme}-{look.width}-{look.locale[:2]}"
                            _write(shot, into / f"{name}.webp")
                            for found in findings(visit.page):
                                click.echo(f"{name}: {found}")
                    visit.close()


def _states() -> dict[str, dict[str, bytes]]:
    """The images by bundle and state, as files."""
    airplane, ship = (
        Image.open(EMBEDDED_BUNDLE / f"{name}.webp").convert("RGB").resize((SIDE, SIDE))
        for name in ("airplane", "ship")
    )
    mixed = Image.blend(airplane, ship, SHARE)
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return {
        "cifar10": {
            "familiar": (EMBEDDED_BUNDLE / "ship.webp").read_bytes(),
            "unfamiliar": (EMBEDDED_BUNDLE / "ball.webp").read_bytes(),
            "ambiguous": saved(mixed),
            "noise": saved(Image.fromarray(noise)),
        },
        "imagenet": {"classes": (EMBEDDED["imagenet"] / "coffee.webp").read_bytes()},
    }


def _shots(visit: Visit, state: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """The tabs with an image, each as a screenshot of the whole page."""
    page = visit.open()
    file = FilePayload(name=f"{state}.webp", mimeType="image/webp", buffer=content)
    page.locator("#files").set_input_files([file])
    for tab in TABS:
        page.locator(f"#tab-{tab}").click()
        page.wait_for_selector(".verdict", state="attached")
        if tab == "why":
            visit.settle()
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        yield tab, page.screenshot(full_page=True)


def _write(shot: bytes, path: Path) -> None:
    with Image.open(io.BytesIO(shot)) as image:
        image.convert("RGB").save(path, quality=QUALITY, method=4)


if __name__ == "__main__":
    main()
