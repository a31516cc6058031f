"""The tab Try in a real browser: images in, answers out."""

import base64
import csv
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from support.images import draw, encode
from support.page import SHIP, findings, shares


def barriers(page):
    """What axe-core finds, and too little contrast in the dark."""
    found = findings(page)
    page.emulate_media(color_scheme="dark")
    found += findings(page, ["color-contrast"])
    page.emulate_media(color_scheme="light")
    return found


def test_a_sample_is_answered_with_bars_and_times(visit, server):
    visit.open()
    page = visit.sample()
    response = server.client.post(
        "/predict?top_k=5", content=SHIP.read_bytes(), headers={"content-type": "image/webp"}
    ).json()
    assert page.locator(".verdict strong").inner_text() == response["label"] == "ship"
    assert shares(page, "#try .bars") == pytest.approx(
        [min(0.999, max(0.001, entry["probability"])) for entry in response["top"]], abs=0.001
    )
    expect(page.locator(".meaning")).to_contain_text("Calibrated")
    expect(page.locator(".times")).to_contain_text("Compute")
    assert re.search(r"Answered in [\d.]+ ms", page.locator(".times").inner_text())


def test_missing_measures_of_trust_are_named(visit, server):
    visit.open()
    page = visit.sample()
    answer = server.client.post(
        "/predict",
        content=SHIP.read_bytes(),
        headers={"content-type": "image/webp"},
    ).json()
    text = page.locator(".trust").inner_text()
    assert ("has no prediction sets" in text) == (answer.get("prediction_set") is None)
    assert ("does not measure familiarity" in text) == (answer.get("familiarity") is None)


def trust_of(familiar, size):
    """The measures of an image that is `familiar` or not, with a set of `size` labels."""
    indices, labels = [8, 0][:size], ["ship", "airplane"][:size]
    return {
        "prediction_set": {"labels": labels, "indices": indices, "size": size, "coverage": 0.95},
        "familiarity": {"score": 0.87, "threshold": 0.41, "familiar": familiar},
    }


def measured(familiar):
    """Answers single predictions with measures of trust."""

    def answer(route):
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | trust_of(familiar, 2))

    return answer


def test_prediction_sets_and_familiarity_are_shown_in_words(visit):
    visit.page.route("**/predict*", measured(familiar=True))
    visit.open()
    page = visit.sample()
    trust = page.locator(".trust")
    expect(trust).to_contain_text("One of 2: ship, airplane. Of all sets, large and small, 95%")
    expect(trust).to_contain_text("How many sets of this size do was not measured.")
    expect(trust).to_contain_text("in the range of 95 % of the images held out")
    expect(page.locator(".meaning")).to_contain_text("Calibrated")


SETS_LIKE_IT = [
    (1, (1, 1, True), "Of those that are only ship, at least 84% do (361 images held out)."),
    (1, (1, 1, False), "Of those with one label, at least 84% do"),
    (2, (2, 2, False), "Of those with 2 labels, at least 84% do"),
    (2, (2, 4, False), "Of those with 2 to 4 labels, at least 84% do"),
    (2, (2, None, False), "Of those with 2 labels or more, at least 84% do"),
]


def test_a_set_says_the_least_share_of_sets_like_it(visit):
    names, given = ("least_size", "most_size", "same_label"), {}
    like_it = {"sets": 361, "share": 0.886, "interval": [0.8496, 0.915]}

    def answer(route):
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | given)

    visit.page.route("**/predict*", answer)
    visit.open()
    for size, counted, sentence in SETS_LIKE_IT:
        given |= trust_of(True, size)
        given["prediction_set"]["measured"] = like_it | dict(zip(names, counted, strict=True))
        expect(visit.sample().locator(".trust")).to_contain_text(sentence)


def test_what_an_unfamiliar_image_makes_untrue_is_not_said(visit):
    visit.page.route("**/predict*", measured(familiar=False))
    visit.open()
    page = visit.sample()
    expect(page.locator(".verdict strong")).to_have_text("Nothing it knows.")
    expect(page.locator(".verdict")).to_contain_text("Nearest guess: ship")
    answer = page.locator("#try .answer")
    expect(answer).to_contain_text("do not rely on this answer")
    expect(answer).not_to_contain_text("Calibrated:")
    expect(answer).not_to_contain_text("hold the right answer")
    assert barriers(page) == []
    page.locator("#tab-why").click()
    visit.settle()
    expect(page.locator("#why .notice").first).to_contain_text("knows nothing like this image")
    assert barriers(page) == []


def test_a_grid_says_what_is_doubtful_and_keeps_the_visitors_judgement(visit, tmp_path):
    given = [trust_of(True, 1), trust_of(False, 2), trust_of(True, 2)]
    # A route of Playwright would lose the files of the form.
    visit.page.add_init_script(
        """const plain = window.fetch;
        window.fetch = async (path, options) => {
            const response = await plain(path, options);
            if (path !== "/predict") return response;
            const body = await response.json();
            const given = GIVEN;
            const results = body.results.map((one, i) => ({ ...one, ...given[i] }));
            return Response.json({ results });
        };""".replace("GIVEN", json.dumps(given))
    )
    page = visit.open()
    for name, colour in (("=sum.png", "red"), ("b.png", "blue"), ("c.png", "green")):
        (tmp_path / name).write_bytes(encode(draw(colour)))
    names = ["=sum.png", "b.png", "c.png"]
    page.locator("#files").set_input_files([tmp_path / name for name in names])
    cards = page.locator(".grid li")
    expect(cards.nth(1)).to_contain_text("unfamiliar")
    expect(cards.nth(2)).to_contain_text("one of 2")
    page.get_by_role("button", name="Most doubtful first").click()
    expect(cards.nth(0)).to_contain_text("unfamiliar")
    expect(cards.nth(1)).to_contain_text("one of 2")
    page.get_by_role("button", name="The answer for b.png is wrong").click()
    expect(page.get_by_role("button", name="The answer for b.png is wrong")).to_have_attribute(
        "aria-pressed", "true"
    )
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as CSV").click()
    rows = list(csv.DictReader(Path(saved.value.path()).read_text().splitlines()))
    assert [row["name"] for row in rows] == ["b.png", "c.png", "'=sum.png"]
    assert rows[0]["truth"] == "wrong"
    assert rows[1]["prediction_set"] == "ship; airplane"
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as JSON").click()
    entries = json.loads(Path(saved.value.path()).read_text())
    assert entries[0]["truth"] == "wrong"
    assert not entries[0]["answer"]["familiarity"]["familiar"]
    assert barriers(page) == []


def test_several_images_make_a_grid_and_a_bad_one_shows_its_error(visit, tmp_path):
    names = ["a.png", "b.png", "bad.png", "c.pdf"]
    for name, content in zip(
        names,
        [
            encode(draw("red")),
            encode(draw("blue")),
            b"\x89PNG\r\n\x1a\ncut",
            b"%PDF-1.7 no image",
        ],
        strict=True,
    ):
        (tmp_path / name).write_bytes(content)
    page = visit.open()
    page.locator("#files").set_input_files([tmp_path / name for name in names])
    cards = page.locator(".grid li")
    expect(cards).to_have_count(4)
    expect(cards.nth(0)).to_contain_text("%")
    expect(cards.nth(2)).to_contain_text("The image cannot be decoded")
    expect(cards.nth(3)).to_contain_text("This format is not supported")
    cards.nth(1).locator(".card").click()
    expect(page.locator(".verdict")).to_be_visible()
    expect(cards.nth(1).locator(".card")).to_have_attribute("aria-pressed", "true")
    cards.nth(2).locator(".card").click()
    error = page.locator("#try .answer").get_by_role("alert")
    expect(error).to_contain_text("No answer for bad.png")
    expect(error).to_contain_text("is damaged or cut off")


def test_images_of_more_than_one_request_are_all_answered(visit, tmp_path):
    page = visit.open()
    file = {"name": "a.png", "mimeType": "image/png", "buffer": encode(draw("red"))}
    page.locator("#files").set_input_files([file] * 70)
    expect(page.locator(".grid li b")).to_have_count(70)
    assert len([url for url in visit.requests if url.endswith("/predict")]) == 2


def test_images_can_be_dropped_and_pasted(visit):
    page = visit.open()
    for event, holder, name in (
        ("drop", "dataTransfer", "dropped.webp"),
        ("paste", "clipboardData", "pasted.webp"),
    ):
        page.evaluate(
            """([event, holder, name, text]) => {
                const data = new DataTransfer();
                const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
                data.items.add(new File([bytes], name, { type: "image/webp" }));
                const Made = event === "drop" ? DragEvent : ClipboardEvent;
                document.body.dispatchEvent(new Made(event, { [holder]: data, bubbles: true }));
            }""",
            [event, holder, name, base64.b64encode(SHIP.read_bytes()).decode()],
        )
        expect(page.locator("figcaption")).to_have_text(name)
        expect(page.locator(".verdict strong")).to_have_text("ship")


def test_a_photo_can_be_taken(visit):
    page = visit.open()
    page.get_by_role("button", name="Take a photo").click()
    page.get_by_role("button", name="Take it").click()
    expect(page.locator("figcaption")).to_have_text("photo.jpg")
    expect(page.locator(".verdict")).to_be_visible()
