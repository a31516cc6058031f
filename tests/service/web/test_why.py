"""The tab Why in a real browser: maps, classes, quality and the brush."""

import base64
import io
import re
import shlex
import subprocess
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from service.explain import METHODS, render
from service.explain.cells import means, smooth
from service.explain.colours import ink, tables
from service.image.resize import Box, visible_box
from service.settings import EMBEDDED_BUNDLE
from support.images import draw
from support.methods import OF_CNNS
from support.page import explained, shares


def pixels(page, selector="#why .panel canvas[role=img]"):
    """The pixels of a canvas: uint8 (H, W, 3)."""
    url = page.locator(selector).first.evaluate("canvas => canvas.toDataURL('image/png')")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"))


def without_haste(route):
    """Sends an explanation with much time, and LIME with few samples."""
    few = "&samples=64&max_samples=64" if "method=lime" in route.request.url else ""
    route.continue_(url=f"{route.request.url}&deadline_ms=60000{few}")


def test_up_to_three_methods_explain_one_image_side_by_side(visit):
    # A busy machine would answer LIME, beside two others, by a cheaper question.
    visit.page.route("**/explain?*", without_haste)
    page = visit.explained("Integrated Gradients", "Grad-CAM", "LIME")
    panels = page.locator(".panel")
    expect(panels).to_have_count(3)
    expect(page.get_by_role("button", name="Compare with another method")).to_be_disabled()
    expect(page.locator(".question")).to_have_text("What in the image supports ship?")
    texts = panels.all_inner_texts()
    assert METHODS["integrated_gradients"].description[1:] in texts[0]
    assert "opposes it" in texts[0]
    assert "logits: the score before it becomes a probability" in texts[0]
    assert "It adds up" in texts[0]
    assert "Its simple model explains" in texts[2]
    assert "logits for each segment" in texts[2]
    for text in texts:
        assert "Beware" in text
        assert re.search(r"the support is strongest .+ \([\d.]+% of it", text, re.IGNORECASE)
    panels.nth(1).get_by_role("button", name="Remove").click()
    expect(panels).to_have_count(2)


def test_every_method_has_a_description_and_a_map(visit):
    page = visit.explained("Integrated Gradients")
    options = page.get_by_label("Method", exact=True).locator("option").all_inner_texts()
    assert options == [METHODS[name].title for name in OF_CNNS]
    for method in ("saliency", "occlusion", "grad_cam"):
        page.get_by_label("Method", exact=True).select_option(value=method)
        visit.settle()
        assert METHODS[method].description[1:] in page.locator(".panel .meaning").inner_text()
        expect(page.locator(".panel canvas[role=img]")).to_have_attribute(
            "aria-label", re.compile(f"^{re.escape(METHODS[method].title)}: ")
        )


def test_the_page_has_the_colours_of_the_service(visit):
    page = visit.open()
    strengths = np.linspace(-1, 1, 101)
    for scale in ("diverging", "sequential"):
        theirs = page.evaluate(
            """async ([scale, strengths]) => {
                const { colourIndex, colours, loadColours } = await import("/web/colours.js");
                await loadColours();
                const table = colours(scale);
                const colour = (at) => [...table.slice(at, at + 3)];
                return strengths.map((strength) => colour(colourIndex(table, strength)));
            }""",
            [scale, strengths.tolist()],
        )
        difference = np.abs(np.array(theirs) - ink(strengths, scale))
        assert difference.max() < 6e-3, (scale, difference.max(), difference.mean())


def test_the_colours_are_one_small_file(server):
    response = server.client.get("/web/colours.json", headers={"accept-encoding": "gzip"})
    assert response.json() == tables()
    assert int(response.headers["content-length"]) < 6_000
    unchanged = {"if-none-match": response.headers["etag"]}
    assert server.client.get("/web/colours.json", headers=unchanged).status_code == 304


def test_the_map_is_drawn_as_the_service_draws_it(visit, server):
    page = visit.explained("Integrated Gradients")
    page.get_by_label("Strength of the map").fill("1")
    for method in ("integrated_gradients", "grad_cam"):
        page.get_by_label("Method", exact=True).select_option(value=method)
        visit.settle()
        ours = pixels(page).astype(int)
        overlay = explained(server, f"method={method}&target=ship&map=overlay")["overlay"]
        with Image.open(io.BytesIO(base64.b64decode(overlay.partition(",")[2]))) as image:
            theirs = np.asarray(
                image.convert("RGB").resize(ours.shape[1::-1], Image.Resampling.BICUBIC)
            ).astype(int)
        difference = np.abs(ours - theirs)
        assert difference.mean() < 4, (method, difference.mean(), difference.max())


@pytest.mark.parametrize(
    ("scale", "cell"), [("diverging", 16), ("sequential", 8), ("diverging", 1)]
)
def test_frame_lines_and_cells_are_those_of_the_service(visit, scale, cell):
    rng, box = np.random.default_rng(0), Box(60, 20, 300, 200)
    image = np.asarray(Image.fromarray(draw("red", size=64)).resize((360, 220)))
    side = 32 if cell == 1 else 224
    values = np.cumsum(rng.normal(size=(side, side)), 1).astype(np.float32)
    shown = values if cell == 1 else smooth(means(values, cell))
    most = render.limit(shown, scale)
    theirs = render.overlay(image, shown, box, scale, most).astype(int)
    opaque = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    url = visit.open().evaluate(
        """async ([bytes, size, box, values, side, cell, limit, scale]) => {
            const { gathered, overlay, strengths } = await import("/web/map.js");
            const { loadColours } = await import("/web/colours.js");
            await loadColours();
            const decoded = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
            const pixels = new ImageData(new Uint8ClampedArray(decoded(bytes)), ...size);
            const floats = new Float32Array(decoded(values).buffer);
            const [drawn, shape] = gathered(floats, [side, side], cell);
            const strength = strengths(drawn, limit, scale, { favour: true, against: true });
            return overlay({ pixels, box }, strength, shape, scale).toDataURL("image/png");
        }""",
        [
            base64.b64encode(opaque.tobytes()).decode(),
            [360, 220],
            box._asdict(),
            base64.b64encode(values.tobytes()).decode(),
            side,
            cell,
            most,
            scale,
        ],
    )
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as drawn:
        difference = np.abs(np.asarray(drawn.convert("RGB")).astype(int) - theirs)
    assert difference.mean() < 0.5, (scale, cell, difference.mean(), difference.max())


def test_the_page_knows_what_the_network_sees(visit, embedded):
    page = visit.open()
    sizes = ((447, 696), (40, 41), (1000, 3), (31, 33), (32, 21))
    for rule, size in product(("crop", "stretch", "pad"), sizes):
        spec = replace(embedded.manifest.input, size=(24, 32), resize=rule, short_side=0)
        given = {"size": [24, 32], "resize": rule, "short_side": spec.short_side}
        found = page.evaluate(
            "async ([size, input]) => (await import('/web/map.js')).visibleBox(...size, input)",
            [size, given],
        )
        assert list(found.values()) == pytest.approx(visible_box(*size, spec)), (rule, size)


def test_strength_and_sides_change_the_drawing_without_a_request(visit):
    page = visit.explained("Integrated Gradients")
    requests = len(visit.requests)
    page.get_by_label("Strength of the map").fill("1")
    both = pixels(page)
    page.get_by_label("opposes it", exact=True).uncheck()
    favour = pixels(page)
    page.get_by_label("supports it", exact=True).uncheck()
    neither = pixels(page)
    page.get_by_label("Strength of the map").fill("0")
    image = pixels(page)
    assert len(visit.requests) == requests

    def blueness(shown):
        return shown[..., 2].astype(int) - shown[..., 0]

    grey = image @ [0.299, 0.587, 0.114]
    muted = image + 0.5 * (grey[..., None] - image)
    assert np.abs(neither - muted).max() <= 1.5, "half of the image's colours stay"
    assert (blueness(neither) - blueness(favour)).max() > 60, "support is orange"
    assert (blueness(both) - blueness(favour)).max() > 40, "opposition is blue"


def test_any_class_can_be_explained_and_compared_with_another(visit, server):
    page = visit.explained("Integrated Gradients")
    first = page.locator(".panel .findings").inner_text()
    page.get_by_label("Explain", exact=True).select_option(value="9")
    visit.settle()
    expect(page.locator(".question")).to_have_text("What in the image supports truck?")
    assert page.locator(".panel .findings").inner_text() != first
    page.get_by_label("rather than").select_option(value="8")
    visit.settle()
    expect(page.locator(".question")).to_have_text("Why truck rather than ship?")
    assert any("target=truck%2Cship" in url for url in visit.requests)
    page.get_by_label("Explain", exact=True).select_option(value="8")
    visit.settle()
    expect(page.locator(".question")).to_have_text("What in the image supports ship?")
    expect(page.get_by_label("rather than")).to_have_value("")


def test_quality_is_shown_in_words(visit):
    page = visit.explained("Grad-CAM")
    quality = page.locator(".quality")
    expect(quality).to_contain_text("cosine")
    expect(quality).not_to_contain_text("strongest parts first")
    page.get_by_label("Measure the map").check()
    expect(quality).to_contain_text("Removing its strongest parts first lowers the probability")
    expect(quality).to_contain_text("Showing its strongest parts first raises the probability")
    expect(quality).not_to_contain_text("{")
    expect(quality).to_contain_text("invisible noise")
    expect(page.locator(".caveat")).to_contain_text("331 people")


def test_the_nearest_training_images_are_shown_where_there_are_images_of_them(visit):
    page = visit.explained("Grad-CAM")
    expect(page.locator(".nearest")).to_have_count(0)

    def illustrated(route):
        response = route.fetch()
        answer = response.json()
        for entry in answer["nearest"]:
            entry["picture"] = "/model/samples/ship.webp"
        route.fulfill(response=response, json=answer)

    page.route("**/predict*", illustrated)
    page.locator("#tab-try").click()
    visit.sample("Airplane")
    page.locator("#tab-why").click()
    visit.settle()
    images = page.locator(".nearest li img")
    expect(images).to_have_count(5)
    expect(images.first).to_have_js_property("naturalWidth", 224)
    expect(page.locator(".nearest li").first).to_contain_text("distance")


def test_parameters_can_be_changed_and_a_bad_one_shows_its_limits(visit):
    page = visit.explained("Integrated Gradients")
    page.get_by_text("Parameters and cost").click()
    page.get_by_label("baseline").select_option("black")
    visit.settle()
    assert any("baseline=black" in url for url in visit.requests)
    page.get_by_text("Parameters and cost").click()
    page.get_by_label("steps").fill("9999")
    page.get_by_label("steps").blur()
    expect(page.locator(".panel").get_by_role("alert")).to_contain_text(
        "give a whole number from 1 to 512"
    )
    assert any("422" in error for error in visit.errors)
    visit.errors.clear()


def test_overlay_map_and_command_can_be_saved(visit, server, tmp_path):
    page = visit.explained("Grad-CAM")
    for name, suffix in (("Overlay (PNG)", "png"), ("Map (npy)", "npy")):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=name).click()
        assert waiting.value.suggested_filename == f"ship-grad_cam.{suffix}"
        waiting.value.save_as(tmp_path / f"map.{suffix}")
    with Image.open(tmp_path / "map.png") as image:
        assert image.size > (224, 224), "with its legend"
    expected = explained(server, "method=grad_cam&target=ship&map=array")["map"]
    values = np.frombuffer(base64.b64decode(expected["data"]), "<f4").reshape(expected["shape"])
    # Not bit for bit: ONNX Runtime rounds otherwise in another batch or at another address.
    np.testing.assert_allclose(np.load(tmp_path / "map.npy"), values, rtol=0, atol=1e-5)
    page.get_by_text("The same request by curl").click()
    command = shlex.split(page.locator(".downloads pre").inner_text().replace("\\\n", ""))
    done = subprocess.run(command, cwd=EMBEDDED_BUNDLE, capture_output=True, check=True, timeout=60)
    assert b'"method":"grad_cam"' in done.stdout


def test_a_brushed_region_is_predicted_by_a_real_request(visit):
    page = visit.explained("Integrated Gradients", "Grad-CAM")
    requests = len([url for url in visit.requests if "/predict?" in url])
    page.get_by_role("button", name="Brush the strongest tenth").click()
    result = page.locator(".result")
    expect(result).to_contain_text("What happened to ship")
    before, after = shares(page, ".result .bars")
    assert after < before, "the map's strongest tenth matters"
    assert len([url for url in visit.requests if "/predict?" in url]) == requests + 2, (
        "before and after, on the same canvas"
    )
    claims = result.locator(".claims li").all_inner_texts()
    assert re.search(
        r"Integrated Gradients [\d.]+%\. .+ the probability would be .+% \(.+ logits\)", claims[0]
    )
    assert "Grad-CAM" in claims[1]
    assert "claims no amount" in claims[1]
    page.get_by_label("rather than").select_option(value="0")
    expect(result).to_contain_text("Nothing is brushed yet")
    visit.settle()
    canvas = page.locator(".probe canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 2 * box["width"] / 3, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    expect(result).to_contain_text("the difference of the two scores changed by")
    page.get_by_role("button", name="Clear").click()
    expect(result).to_contain_text("Nothing is brushed yet")
