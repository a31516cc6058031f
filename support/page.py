"""What the tests of the page share: a sample, a dangerous label, readers of the page."""

import re
from typing import Any

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page

from service.settings import EMBEDDED_BUNDLE
from support.servers import Server

SHIP = EMBEDDED_BUNDLE / "ship.webp"
SCRIPT = "<img src=x onerror=window.ran=1><script>window.ran=1</script>"
REMARK = f"no better than guessing: always answering {SCRIPT} would have 0.100"


def shares(page: Page, selector: str) -> list[float]:
    """The percentages of bars as numbers 0…1."""
    texts = page.locator(f"{selector} .figure").all_inner_texts()
    return [float(re.sub(r"[^\d.]", "", text)) / 100 for text in texts]


def explained(server: Server, query: str) -> Any:
    """The service's own explanation of the sample Ship, as JSON values."""
    response = server.client.post(
        f"/explain?{query}", content=SHIP.read_bytes(), headers={"content-type": "image/webp"}
    )
    assert response.status_code == 200, response.text
    return response.json()["explanation"]


def findings(page: Page, rules: list[str] | None = None) -> list[tuple[str, str, list[str]]]:
    """The serious and critical findings of axe-core, by all rules or by some."""
    options = {"resultTypes": ["violations"]} | (
        {"runOnly": {"type": "rule", "values": rules}} if rules else {}
    )
    return [
        (
            violation["id"],
            violation["impact"],
            [node["html"][:200] for node in violation["nodes"]][:3],
        )
        for violation in Axe().run(page, options=options).response["violations"]
        if violation["impact"] in ("serious", "critical")
    ]
