"""The page by keyboard, by screen reader, on any screen, in any theme and language."""

import re

import pytest
from playwright.sync_api import expect

from support.browser import TABS
from support.page import findings


@pytest.mark.parametrize(("scheme", "rules"), [("light", None), ("dark", ["color-contrast"])])
def test_axe_finds_no_serious_barrier(scheme, rules, visitor):
    visit = visitor(color_scheme=scheme)
    page = visit.open()
    assert findings(page, rules) == []
    visit.explained("Integrated Gradients", "Grad-CAM", "Occlusion")
    page.get_by_role("button", name="Brush the strongest tenth").click()
    expect(page.locator(".result")).to_contain_text("What happened")
    assert findings(page, rules) == []
    for tab in ("try", "watch", "model"):
        page.locator(f"#tab-{tab}").click()
        page.wait_for_selector(f"#{tab} h1")
        if tab == "watch":
            page.locator(".latency table").first.wait_for()
        assert findings(page, rules) == []
    page.goto("/docs")
    page.locator("summary").first.click()
    page.locator(".operation table").first.wait_for()
    assert findings(page, rules) == []
    page.goto("/model/card")
    page.get_by_role("button", name="Theme").wait_for()
    assert findings(page, rules) == []


def test_everything_works_by_keyboard(visit):
    page = visit.page
    page.goto("/")
    page.wait_for_selector("#try h1")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the main part")).to_be_focused()
    page.get_by_role("button", name="Ship").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".verdict")
    page.locator("#tab-try").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-why")).to_be_focused()
    expect(page.locator("#tab-why")).to_have_attribute("aria-selected", "true")
    visit.settle()
    page.locator(".probe canvas").focus()
    for key in ("ArrowLeft", "ArrowUp", " ", "ArrowRight", " "):
        page.keyboard.press(key)
    expect(page.locator(".result")).to_contain_text("What happened to ship")
    page.keyboard.press("Delete")
    expect(page.locator(".result")).to_contain_text("Nothing is brushed yet")
    page.locator("#tab-why").focus()
    page.keyboard.press("End")
    expect(page.locator("#model")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#try")).to_be_visible()


def test_every_tab_fits_its_screen(visitor):
    visit = visitor(viewport={"width": 360, "height": 740})
    visit.explained("Integrated Gradients", "Grad-CAM")
    for tab in (*TABS, "docs"):
        visit.page.set_viewport_size({"width": 360, "height": 740})
        if tab == "docs":
            visit.page.goto("/docs")
            visit.page.locator("summary").first.click()
        else:
            visit.page.locator(f"#tab-{tab}").click()
            visit.page.wait_for_selector(f"#{tab} h1")
        for width in (360, 1920):
            visit.page.set_viewport_size({"width": width, "height": 740})
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, tab


def test_on_a_narrow_screen_the_answer_comes_right_below_the_image(visitor):
    visit = visitor(viewport={"width": 390, "height": 844})
    visit.open()
    page = visit.sample()
    places = [
        page.locator(f"#try {part}").bounding_box()["y"]
        for part in (".frame", ".verdict", ".sources")
    ]
    assert places == sorted(places)


def test_the_theme_is_the_systems_until_one_is_chosen(visitor):
    page = visitor(color_scheme="dark").open()

    def paper():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark = paper()
    page.get_by_role("button", name="Theme: system").click()
    light = paper()
    assert dark != light
    page.reload()
    expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
    assert paper() == light
    page.get_by_role("button", name="Theme: light").click()
    assert paper() == dark


def test_the_language_is_the_browsers_until_one_is_chosen(visitor):
    visit = visitor(locale="zh-CN")
    page = visit.open()
    expect(page.locator("#try h1")).to_have_text(re.compile("^它看到了什么"))
    assert page.evaluate("document.documentElement.lang") == "zh"
    page.get_by_role("button", name="轮船").click()
    expect(page.locator(".verdict strong")).to_have_text("ship")
    page.locator("#tab-why").click()
    visit.settle()
    expect(page.locator(".quality")).to_contain_text("余弦")
    page.get_by_role("button", name="中文 / EN").click()
    expect(page.locator("#why h1")).to_have_text("Why this answer?")
    expect(page.locator(".question")).to_have_text("What in the image supports ship?")
    page.reload()
    expect(page.locator("#why h1")).to_have_text("Why this answer?")
