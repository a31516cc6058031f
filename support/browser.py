"""A real browser for tests and screenshots: Debian's Chromium, headless, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

# A camera with a test image, which no one has to allow.
ARGUMENTS = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
TABS = ("try", "why", "watch", "model")
WAIT = 15_000  # milliseconds; a wait ends as soon as it can, and a crowded machine needs longer

expect.set_options(timeout=WAIT)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser."""
    path = shutil.which("chromium")
    assert path, "chromium is missing: scripts/packages chromium installs it"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page of one visitor.

    `errors` collects those of scripts and the console, `foreign` the requests to other hosts.
    """

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        options = {"locale": "en-GB", "viewport": {"width": 1280, "height": 900}} | options
        self.context = browser.new_context(base_url=url, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _request(self, request: Request) -> None:
        self.requests.append(request.url)
        if not request.url.startswith((self.url, "data:", f"blob:{self.url}")):
            self.foreign.append(request.url)

    def open(self, tab: str = "try") -> Page:
        """Opens the page at a tab."""
        self.page.goto(f"/#{tab}")
        self.page.wait_for_selector(f"#{tab} h1")
        return self.page

    def sample(self, name: str = "Ship") -> Page:
        """Submits a sample and waits for the answer."""
        self.page.get_by_role("button", name=name).click()
        self.page.wait_for_selector(".verdict")
        return self.page

    def explained(self, *methods: str, sample: str = "Ship") -> Page:
        """Submits a sample and waits for its maps by `methods`."""
        self.open()
        self.sample(sample)
        self.page.locator(".answer a.main").click()
        for number, method in enumerate(methods):
            if number:
                self.page.get_by_role("button", name="Compare with another method").click()
            self.page.locator(".panel select").first.wait_for()
            self.page.get_by_label("Method", exact=True).nth(number).select_option(label=method)
        self.settle()
        return self.page

    def settle(self) -> None:
        """Waits until every panel shows a map or an error."""
        self.page.locator("#why .panel").first.wait_for()
        expect(
            self.page.locator("#why [aria-busy], #why .panel:not(:has(.quality, .bad))")
        ).to_have_count(0)

    def close(self) -> None:
        """Closes the page."""
        self.context.close()
