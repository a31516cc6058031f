"""Screenshots of the page of an embedded bundle, with some traffic to watch."""

import io
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import httpx
from PIL import Image
from playwright.sync_api import Route

from service.settings import EMBEDDED
from support.browser import TABS, Visit, chromium
from support.servers import ROOT, Server

WIDTHS = {1280: 1.0, 390: 2.0}  # CSS pixels, and device pixels for each
HEIGHTS = {"try": 990, "why": 1420, "watch": 1080, "model": 900}
NARROW_HEIGHT = 844
METHODS = ("Grad-CAM", "Integrated Gradients", "Occlusion")  # as the page begins
SCHEMES = ("light", "dark")
SHOWN = ("try", "why")  # in the documents
SHOWN_SAMPLES = {"cifar10": "Ship", "imagenet": "Coffee"}
DEADLINE_MS = 60_000  # a crowded machine would show cheaper maps than those asked for
WATCHED_SECONDS = 24
QUALITY = 80


@click.command()
@click.option(
    "--tab", "tabs", multiple=True, type=click.Choice(TABS), default=SHOWN, show_default=True
)
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    type=click.Choice(SCHEMES),
    default=SCHEMES[:1],
    show_default=True,
)
@click.option(
    "--bundle",
    type=click.Choice(list(SHOWN_SAMPLES)),
    default="imagenet",
    show_default=True,
)
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default=ROOT / "docs" / "images",
    help="The folder of the images.",
)
def main(tabs: tuple[str, ...], schemes: tuple[str, ...], bundle: str, into: Path) -> None:
    """Writes page-TAB-SCHEME-WIDTH.webp for each tab, colour scheme and width.

    Those of another bundle than imagenet begin with its name.
    """
    prefix = "page" if bundle == "imagenet" else bundle
    samples = [path.read_bytes() for path in sorted(EMBEDDED[bundle].glob("*.webp"))]
    with (
        tempfile.TemporaryDirectory() as scratch,
        Server(Path(scratch), bundle=bundle) as server,
        chromium() as browser,
    ):
        warm(server, samples[0])
        for width, scale in WIDTHS.items():
            visits = {
                scheme: Visit(
                    browser,
                    server.url,
                    color_scheme=scheme,
                    device_scale_factor=scale,
                    viewport={"width": width, "height": NARROW_HEIGHT},
                )
                for scheme in schemes
            }
            for tab in tabs:
                with traffic(server.url, samples) if tab == "watch" else nothing():
                    for visit in visits.values():
                        prepare(visit, tab, SHOWN_SAMPLES[bundle])
                    if tab == "watch":
                        visits[schemes[0]].page.wait_for_timeout(1000 * WATCHED_SECONDS)
                    for scheme, visit in visits.items():
                        take(visit, tab, width, into / f"{prefix}-{tab}-{scheme}-{width}.webp")


def warm(server: Server, sample: bytes) -> None:
    """Requests a few predictions and explanations, because the first ones are slower."""
    for path in ("/predict", "/explain?method=grad_cam") * 20:
        server.client.post(path, content=sample, headers={"content-type": "image/webp"})


@contextmanager
def nothing() -> Iterator[None]:
    """No traffic."""
    yield


@contextmanager
def traffic(url: str, samples: list[bytes]) -> Iterator[None]:
    """Predictions and explanations from two clients, with breaks and an occasional bad file."""
    over = threading.Event()
    workers = [
        threading.Thread(target=_ask, args=(url, over, path, samples))
        for path in ("/predict", "/explain?method=grad_cam")
    ]
    for worker in workers:
        worker.start()
    yield
    over.set()
    for worker in workers:
        worker.join()


def _ask(url: str, over: threading.Event, path: str, samples: list[bytes]) -> None:
    images = [*samples * 9, b"no image"]
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in range(10**6):
            if over.wait(0.012 if number % 97 < 70 else 0.06):
                return
            client.post(
                path, content=images[number % len(images)], headers={"content-type": "image/webp"}
            )


def prepare(visit: Visit, tab: str, sample: str) -> None:
    """Brings the page to the state to show, of a `sample`."""
    if tab == "why":
        visit.page.route("**/explain?*", _without_haste)
        visit.explained(*METHODS, sample=sample)
        return
    visit.open(tab)
    if tab == "try":
        visit.sample(sample)
    if tab == "watch":
        visit.page.wait_for_selector(".tile")
    else:
        visit.page.wait_for_load_state("networkidle")


def _without_haste(route: Route) -> None:
    route.continue_(url=f"{route.request.url}&deadline_ms={DEADLINE_MS}")


def take(visit: Visit, tab: str, width: int, path: Path) -> None:
    """Writes the visible part of the page as WebP."""
    if width > 1000:
        visit.page.set_viewport_size({"width": width, "height": HEIGHTS[tab]})
    elif tab == "why":
        visit.page.locator(".question").evaluate("question => scrollTo(0, question.offsetTop - 16)")
    visit.page.mouse.move(0, 0)
    visit.page.evaluate("document.activeElement.blur()")
    shot = visit.page.screenshot()
    with Image.open(io.BytesIO(shot)) as image:
        image.convert("RGB").save(path, quality=QUALITY, method=6)
    click.echo(f"{path.name} {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
