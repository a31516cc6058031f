"""How the page sends images, and how it says that the service did not answer."""

import base64
import io
from functools import partial

import numpy as np
import pillow_heif
from PIL import Image
from playwright.sync_api import expect

from support.images import draw, encode

SMALL = encode(draw("red", size=64))
HEIC = bytes([0, 0, 0, 24]) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100)

RECORD = """const plain = window.fetch;
window.sent = [];
window.fetch = (path, options) => {
    if (options?.body instanceof Blob) window.sent.push(options.body);
    return plain(path, options);
};"""


def given(name, kind, content):
    return {"name": name, "mimeType": kind, "buffer": content}


def sent(page):
    """The bodies of the images that the page sent, in order."""
    texts = page.evaluate(
        """() => Promise.all(window.sent.map(async (blob) => {
            const bytes = new Uint8Array(await blob.arrayBuffer());
            return btoa(Array.from(bytes, (each) => String.fromCharCode(each)).join(""));
        }))"""
    )
    return [base64.b64decode(text) for text in texts]


def answer_by(status, route):
    """Answers as a proxy in front of the service."""
    route.fulfill(status=status, content_type="text/html", body="<h1>Sorry</h1>")


def photograph():
    """A JPEG file of 3,000 × 2,400 pixels and over 2 MiB, to be turned by a quarter."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 375, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((3000, 2400), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the rows of the file are the columns of the image
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=97, exif=exif)
    assert buffer.tell() > 2 * 2**20
    return buffer.getvalue()


def test_a_large_photograph_is_shrunk_and_turned_unless_the_visitor_wants_the_file(visit):
    visit.page.add_init_script(RECORD)
    page = visit.open()
    page.locator("#files").set_input_files(given("small.png", "image/png", SMALL))
    expect(page.locator(".verdict")).to_be_visible()
    file = photograph()
    page.locator("#files").set_input_files(given("large.jpg", "image/jpeg", file))
    expect(page.locator(".verdict")).to_be_visible()
    small, shrunk = sent(page)
    assert small == SMALL
    with Image.open(io.BytesIO(shrunk)) as image:
        assert (image.format, image.size) == ("JPEG", (1638, 2048))
        assert image.getexif().get(0x0112, 1) == 1, "turned once, not twice"
        turned = np.asarray(image.convert("L"), float)
    with Image.open(io.BytesIO(file)) as image:
        expected = image.convert("L").transpose(Image.Transpose.ROTATE_270).resize((1638, 2048))
    assert np.abs(turned - np.asarray(expected, float)).mean() < 4
    note = page.locator("figcaption")
    expect(note).to_contain_text("Shrunk before sending, in pixels: 1,638 × 2,048 (")
    expect(note).to_contain_text("instead of 2,400 × 3,000 (")
    page.get_by_role("button", name="Send the file as it is").click()
    expect(page.locator(".verdict")).to_be_visible()
    assert sent(page)[2] == file
    expect(note).to_have_text("large.jpg")


def test_a_heic_photograph_that_nobody_reads_is_explained(visit):
    page = visit.open()
    problem = {"title": "", "status": 415, "code": "unsupported_format", "detail": ""}
    page.route("**/predict?*", lambda route: route.fulfill(status=415, json=problem))
    page.locator("#files").set_input_files(given("IMG_1.HEIC", "image/heic", HEIC))
    error = page.locator(".answer").get_by_role("alert")
    expect(error).to_contain_text("cannot read HEIC photographs")
    expect(error).to_contain_text("Export the photograph as JPEG")
    assert [error for error in visit.errors if "415" not in error] == []
    visit.errors.clear()


def test_a_heic_photograph_is_sent_to_a_service_that_reads_it(visit):
    buffer = io.BytesIO()
    pillow_heif.encode("RGB", (64, 64), draw("red", size=64).tobytes(), buffer)
    page = visit.open()
    page.locator("#files").set_input_files(given("IMG_1.HEIC", "image/heic", buffer.getvalue()))
    expect(page.locator(".verdict")).to_be_visible()


def test_an_image_of_too_many_pixels_is_shrunk_when_the_service_rejects_it(visit):
    page = visit.open()
    buffer = io.BytesIO()
    Image.new("L", (9000, 9000), 128).save(buffer, "PNG")
    file = given("huge.png", "image/png", buffer.getvalue())
    assert len(file["buffer"]) < 2 * 2**20
    page.locator("#files").set_input_files(file)
    expect(page.locator(".verdict")).to_be_visible()
    expect(page.locator("figcaption")).to_contain_text("2,048 × 2,048")
    assert [error for error in visit.errors if "413" not in error] == []
    visit.errors.clear()


def test_a_failure_has_a_sentence_and_a_button_where_trying_again_may_help(visit):
    page = visit.open()
    answer = page.locator(".answer")
    error = answer.get_by_role("alert")
    again = error.get_by_role("button", name="Try again")
    for status, words, passes in (
        (413, "The upload is too large", False),
        (429, "Too many requests are waiting", True),
        (502, "The service cannot answer now", True),
        (503, "try again in a moment", True),
        (504, "The time for the answer is over", True),
        (418, "answered with status 418 and gave no reason", True),
    ):
        page.route("**/predict?*", partial(answer_by, status))
        page.locator("#files").set_input_files(given("a.png", "image/png", SMALL))
        expect(error).to_contain_text(words)
        page.unroute("**/predict?*")
        if passes:
            again.click()
            expect(page.locator(".verdict")).to_be_visible()
    page.route("**/explain?*", lambda route: route.abort())
    page.locator("#files").set_input_files(given("a.png", "image/png", SMALL))
    expect(page.locator(".verdict")).to_be_visible()
    page.locator("#tab-why").click()
    expect(page.locator(".panel").get_by_role("alert")).to_contain_text("cannot be reached")
    page.unroute("**/explain?*")
    page.locator(".panel").get_by_role("button", name="Try again").click()
    visit.settle()
    expect(page.locator(".panel .quality")).to_be_visible()
    page.route("**/web/watch.js", lambda route: route.abort())
    page.locator("#tab-watch").click()
    expect(page.locator("#watch").get_by_role("alert")).to_contain_text("could not be loaded")
    page.unroute("**/web/watch.js")
    page.locator("#watch").get_by_role("button", name="Try again").click()
    expect(page.locator("#watch .tile").first).to_be_visible()
    assert all("Failed to load" in error for error in visit.errors)
    visit.errors.clear()


def test_an_unreachable_service_is_reported_for_files_and_samples(visit):
    page = visit.explained("Grad-CAM")  # its module is loaded, as a browser loads none twice
    page.locator("#tab-try").click()
    files = [given(name, "image/png", SMALL) for name in ("a.png", "b.png")]
    page.locator("#files").set_input_files(files)
    expect(page.locator(".grid li b")).to_have_count(2)
    visit.context.set_offline(True)
    page.get_by_role("button", name="Ship").click()
    expect(page.locator(".samples").get_by_role("alert")).to_contain_text(
        "The service cannot be reached"
    )
    page.locator("#files").set_input_files(files)
    expect(page.locator(".answer").get_by_role("alert")).to_contain_text(
        "The service cannot be reached"
    )
    page.locator("#tab-why").click()
    expect(page.locator("#why").get_by_role("alert")).to_contain_text("No answer for a.png")
    page.locator("#tab-try").click()
    visit.context.set_offline(False)
    page.locator(".answer").get_by_role("button", name="Try again").click()
    expect(page.locator(".verdict")).to_be_visible()
    expect(page.locator(".grid .truths")).to_have_count(2)
    assert any("ERR_INTERNET_DISCONNECTED" in error for error in visit.errors)
    visit.errors.clear()
