"""The picker of a server with several models, and where the page's requests go after a choice."""

import re
import shutil

import pytest
from playwright.sync_api import expect

from service.settings import EMBEDDED
from support.browser import TABS
from support.images import draw, encode
from support.page import findings
from support.servers import Server

CIFAR10, IMAGENET = "What does it see?", "Try any photograph"
OWN = {"name": "mine.png", "mimeType": "image/png", "buffer": encode(draw("red", size=64))}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A server of cifar10, of imagenet, and of a manifest without its files."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "models" / "broken").mkdir(parents=True)
    shutil.copy(EMBEDDED["cifar10"] / "manifest.json", folder / "models" / "broken")
    (folder / "models" / "imagenet").symlink_to(EMBEDDED["imagenet"])
    with Server(folder, models=folder / "models", workers=1) as running:
        yield running


def picker(page, name="Model"):
    return page.get_by_role("combobox", name=name, exact=True)


def hold(page, path):
    """Keeps the requests for a path back; returns them, to be continued."""
    held = []
    page.route(path, lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks what it calls
    return held


def test_a_choice_says_that_it_loads_and_asks_that_model_alone_until_one_goes_back(
    visitor, several
):
    visit = visitor(several.url)
    page = visit.open()
    page.locator("#files").set_input_files(OWN)
    expect(page.locator(".verdict")).to_be_visible()
    verdict = page.locator(".verdict").inner_text()
    held = hold(page, "**/models/imagenet/model")
    picker(page).focus()
    page.keyboard.press("End")
    expect(page.locator("#start-error")).to_have_text(re.compile("^Loading imagenet: "))
    expect(page.locator("#try h1")).to_have_text(CIFAR10)
    before = len(visit.requests)
    held[0].continue_()
    expect(page.locator("#try h1")).to_have_text(IMAGENET)
    expect(page.locator("#start-error")).to_be_empty()
    expect(page.locator("figcaption")).to_have_text("mine.png")
    expect(page.locator(".verdict")).not_to_have_text(verdict)
    expect(page).to_have_url(re.compile(r"#try\?model=imagenet$"))
    assert findings(page) == []
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.set_viewport_size({"width": 1280, "height": 900})
    for tab in TABS[1:]:
        page.locator(f"#tab-{tab}").click()
        expect(page).to_have_url(re.compile(rf"#{tab}\?model=imagenet"))
        if tab == "why":
            visit.settle()
            command = page.locator(".downloads pre").text_content()
            assert f"'{several.url}/models/imagenet/explain?" in command
        if tab == "watch":
            expect(page.get_by_role("row", name=re.compile("^imagenet"))).to_be_visible()
            expect(page.locator(".classes")).to_contain_text("many classes of this model")
    expect(page.locator("#model")).to_contain_text("EfficientNet")
    sent = {re.sub(r"\?.*", "", url.removeprefix(several.url)) for url in visit.requests[before:]}
    ours = {path for path in sent if not path.startswith(("/web/", "blob:", "/metrics"))}
    assert {path for path in ours if not path.startswith("/models/imagenet/")} == set()
    assert {f"/models/imagenet/{name}" for name in ("predict", "explain", "model/card")} <= ours
    for _ in range(4):
        page.go_back()
    expect(page).to_have_url(re.compile("#try$"))
    expect(page.locator(".verdict")).to_have_text(verdict)
    expect(picker(page)).to_have_value("cifar10")


def test_an_address_names_the_model_and_the_card_leads_back_to_it(visitor, several):
    visit = visitor(several.url, locale="zh-CN")
    page = visit.page
    page.goto("/#try?model=imagenet&sample=cat.webp")
    expect(page.locator(".verdict")).to_be_visible()
    expect(picker(page, "模型")).to_have_value("imagenet")
    page.goto("/models/imagenet/model/card")
    page.locator(".tabs a").click()
    expect(picker(page, "模型")).to_have_value("imagenet")
    expect(page.locator("#model")).to_contain_text("EfficientNet")
    page.goto("/#try?model=none")
    expect(page.locator("#start-error")).to_contain_text("model=none")


def test_a_model_that_cannot_be_loaded_gives_its_reason_and_leaves_the_other(visitor, several):
    visit = visitor(several.url)
    page = visit.open()
    picker(page).select_option("broken")
    error = page.locator("#start-error")
    expect(error).to_contain_text("the model broken cannot be loaded: ")
    expect(error).to_contain_text("GET /models has the reason")
    expect(picker(page)).to_have_value("cifar10")
    expect(page).to_have_url(re.compile(r"#try\?model=broken$"))
    with page.expect_request(f"{several.url}/models/broken/model"):
        error.get_by_role("button", name="Try again").click()
    expect(error.get_by_role("button", name="Try again")).to_be_visible()
    visit.sample()
    expect(page).to_have_url(re.compile(r"#try\?model=cifar10&sample=ship\.webp$"))
    assert [error for error in visit.errors if "503" not in error] == []
    visit.errors.clear()


def test_another_choice_ends_the_wait_for_the_first(visitor, several):
    page = visitor(several.url).open()
    hold(page, "**/models/broken/*")
    picker(page).select_option("broken")
    expect(page.locator("#start-error")).to_have_text(re.compile("^Loading broken: "))
    picker(page).select_option("imagenet")
    expect(page.locator("#try h1")).to_have_text(IMAGENET)
    expect(picker(page)).to_have_value("imagenet")
    expect(page.locator("#start-error")).to_be_empty()


def test_there_is_no_picker_for_one_model_nor_for_a_key_that_may_not_see_the_list(
    visit, visitor, several
):
    page = visit.open()
    expect(page.locator("#model-name")).to_have_text("cifar10")
    other = visitor(several.url)
    other.page.route("**/models", lambda route: route.fulfill(status=403, json={}))
    other.open()
    expect(other.page.locator("#model-name")).to_have_text("cifar10")
    for each in (page, other.page):
        assert each.get_by_role("combobox").count() == 0
    assert [error for error in other.errors if "403" not in error] == []
    other.errors.clear()
