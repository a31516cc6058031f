"""The address of the page: reload, share, back and forward; what is wrong in it is left out."""

import re

import pytest
from playwright.sync_api import expect

from support.images import draw, encode

QUESTION = (
    "#why?model=cifar10&sample=ship.webp&method=integrated_gradients;baseline=black"
    "&method=grad_cam&target=truck&against=ship"
)


def hash_of(page):
    return page.evaluate("location.hash")


def test_an_address_shows_the_same_question_again_and_back_undoes_each_change(visit):
    page = visit.page
    page.goto(f"/{QUESTION}")
    visit.settle()
    expect(page.locator(".question")).to_have_text("Why truck rather than ship?")
    expect(page.get_by_label("Method", exact=True).first).to_have_value("integrated_gradients")
    expect(page.locator(".panel")).to_have_count(2)
    asked = [url for url in visit.requests if "/explain?" in url]
    assert all("target=truck%2Cship" in url for url in asked)
    assert "baseline=black" in asked[0]
    assert hash_of(page) == QUESTION
    page.get_by_label("rather than").select_option(value="")
    expect(page.locator(".question")).to_have_text("What in the image supports truck?")
    page.get_by_role("button", name="Remove this method").nth(1).click()
    visit.settle()
    page.get_by_text("Parameters and cost").click()
    page.get_by_label("baseline").select_option("white")
    visit.settle()
    last = QUESTION.replace("black&method=grad_cam", "white").replace("&against=ship", "")
    assert hash_of(page) == last
    page.reload()
    visit.settle()
    assert hash_of(page) == last
    for _ in range(3):
        page.go_back()
    expect(page.locator(".question")).to_have_text("Why truck rather than ship?")
    expect(page.locator(".panel")).to_have_count(2)
    page.go_forward()
    expect(page.locator(".question")).to_have_text("What in the image supports truck?")
    visit.settle()


def test_own_images_are_gone_back_to_and_are_in_no_address(visit):
    page = visit.open()
    visit.sample()
    expect(page).to_have_url(re.compile(r"#try\?model=cifar10&sample=ship\.webp$"))
    for name, colour in (("mine.png", "red"), ("yours.png", "blue")):
        file = {"name": name, "mimeType": "image/png", "buffer": encode(draw(colour))}
        entries = page.evaluate("history.length")
        page.locator("#files").set_input_files(file)
        expect(page.locator("figcaption")).to_have_text(name)
        expect(page).to_have_url(re.compile("#try$"))
        for _ in range(200):  # the address of both is one, and is written a little later
            if page.evaluate("history.length") > entries:
                break
            page.wait_for_timeout(50)
    page.go_back()
    expect(page.locator("figcaption")).to_have_text("mine.png")
    page.go_back()
    expect(page.locator("figcaption")).to_have_text("ship.webp")
    page.go_back()
    expect(page.locator(".drop")).to_be_visible()
    page.go_forward()
    page.go_forward()
    expect(page.locator("figcaption")).to_have_text("mine.png")
    page.evaluate("history.go(-2)")
    expect(page.locator(".drop")).to_be_visible()
    page.evaluate("history.go(2)")  # past the sample, which is never shown
    expect(page.locator("figcaption")).to_have_text("mine.png")
    page.locator("#tab-why").click()
    visit.settle()
    expect(page).to_have_url(re.compile("#why$"))
    page.reload()
    expect(page.locator("#why")).to_contain_text("There is no image yet")


def test_images_that_were_left_before_their_answer_are_asked_about_when_one_goes_back(visit):
    page = visit.open()
    held = []
    page.route("**/predict?*", lambda route: route.continue_() if held else held.append(route))
    for number, colour in enumerate(("red", "blue"), 1):
        file = {"name": f"{colour}.png", "mimeType": "image/png", "buffer": encode(draw(colour))}
        page.locator("#files").set_input_files(file)
        page.wait_for_function("number => history.state.set === number", arg=number)
    expect(page.locator(".verdict")).to_be_visible()
    page.go_back()
    expect(page.locator("figcaption")).to_have_text("red.png")
    expect(page.locator(".verdict")).to_be_visible()


@pytest.mark.parametrize(
    ("address", "tab", "left_out"),
    [
        ("#constructor", "try", None),
        ("#why?%%%&=", "why", None),
        ("#model?model=other", "model", "model=other"),
        (
            "#why?sample=../model&method=__proto__;x&target=%zz&against=10&quality=<b>",
            "why",
            "sample=../model, method=__proto__;x, quality=<b>, target=%zz, against=10",
        ),
    ],
)
def test_what_is_wrong_in_an_address_is_left_out_and_named(address, tab, left_out, visit):
    page = visit.page
    page.goto(f"/{address}")
    expect(page.locator(f"#{tab} h1")).to_be_visible()
    notice = page.locator("#start-error")
    expect(notice).to_have_text(re.compile(re.escape(left_out) + r"\.$" if left_out else "^$"))
    expect(page).to_have_url(re.compile(rf"#(constructor|{tab})$"))
