"""The card is served as Markdown and as a page, runs nothing, and belongs to the served graph."""

import json
import re

import pytest

from service.api.card import page_of
from service.bundle.folder import REPORT, load, write
from service.errors import DigestError, ManifestError

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
HOSTILE = """---
model-index: [<b>]
---
# A <script>alert(1)</script>

| a | b |
| --- | --- |
| <img src=x onerror=alert(1)> | [x](javascript:alert(1)) |

![plot](attacks.png) ![other](data:image/svg+xml;base64,AA==) ![theirs](https://example.org/a.png)
[page](https://example.org/?a="b) [file](../secret)

| left | right |
| --- | ---: |
| a | b |
"""


def test_the_card_is_markdown_unless_a_page_is_asked_for(server, embedded):
    for accept in ("*/*", "text/markdown", "text/*"):
        answer = server.client.get("/model/card", headers={"accept": accept})
        assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
        assert answer.content == embedded.read("CARD.md")
    assert server.client.get("/model/card", headers={"accept": "image/png"}).status_code == 406


def test_a_browser_gets_a_page_under_the_policy_of_the_other_pages(server, embedded):
    page, front = (
        server.client.get(path, headers={"accept": BROWSER}) for path in ("/model/card", "/")
    )
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == front.headers["content-security-policy"]
    assert {name.strip() for name in page.headers["vary"].split(",")} == {
        "Accept",
        "Accept-Encoding",
    }
    assert f"<h1>{embedded.manifest.name}</h1>" in page.text
    again = server.client.get(
        "/model/card", headers={"accept": BROWSER, "if-none-match": page.headers["etag"]}
    )
    assert again.status_code == 304
    assert (
        server.client.get(
            "/model/card", headers={"if-none-match": page.headers["etag"]}
        ).status_code
        == 200
    )
    for path in re.findall(r'(?:href|src)="(/[^"#]+)', page.text):
        assert server.client.get(path).status_code == 200
    assert 'href="/#model"' in page.text, "the way back to the page"
    assert all(f'id="{name}"' in page.text for name in ("theme", "language"))


def test_nothing_in_a_card_becomes_markup():
    page = page_of(HOSTILE, "<i>name</i>", ["attacks.png", "CARD.md"])
    assert "<title>&lt;i&gt;name&lt;/i&gt;</title>" in page
    assert re.findall(r'<script[^>]* src="([^"]*)"></script>', page) == [
        "/web/theme.js",
        "/web/card.js",
    ]
    assert page.count("<script") == 2
    assert "&lt;script&gt;alert(1)" in page
    assert "model-index" not in page
    assert re.findall(r'<img src="([^"]*)"', page) == ["/model/plots/attacks.png"]
    article = page.partition("<article")[2]
    assert re.findall(r'<a href="([^"]*)"', article) == [
        "https://example.org/a.png",  # an image of another host
        "https://example.org/?a=%22b",
    ]
    assert article.count('<div class="scroll" tabindex="0"><table>') == 2
    assert 'class="align-right"' in article
    assert "style=" not in article, "the policy refuses it"


def reported(embedded, tmp_path, content):
    files = {name: embedded.read(name) for name in embedded.manifest.files} | {REPORT: content}
    return write(tmp_path / "bundle", embedded.manifest, files)


def test_a_report_about_another_graph_is_refused(embedded, tmp_path):
    own = {"files": {"predict.onnx": embedded.manifest.files["predict.onnx"].sha256}}
    assert load(reported(embedded, tmp_path, json.dumps(own).encode()).folder).has(REPORT)
    with pytest.raises(
        DigestError, match=r"report\.json is of a predict\.onnx with sha256 111111111111…"
    ):
        reported(embedded, tmp_path, json.dumps({"files": {"predict.onnx": "1" * 64}}).encode())
    with pytest.raises(ManifestError, match="is no report"):
        reported(embedded, tmp_path, b"[]")
