"""The tabs Watch and Model, the documentation of the API, keys, and what no script can do."""

import re
import shlex
import subprocess

import pytest
from playwright.sync_api import expect

from service.api.access.keys import SCOPES, make
from support.browser import Visit
from support.page import REMARK, SCRIPT, SHIP, explained, findings
from support.servers import Server


def test_watch_draws_the_metrics_of_the_service(visit, server):
    page = visit.open("watch")
    expect(page.locator(".tile")).to_have_count(4)
    for _ in range(20):
        server.client.post(
            "/predict", content=SHIP.read_bytes(), headers={"content-type": "image/webp"}
        )
    server.client.post("/predict", content=b"%PDF", headers={"content-type": "image/png"})
    explained(server, "method=grad_cam")
    expect(page.locator(".rate svg")).to_be_visible()
    errors = page.locator(".tile").nth(1)
    expect(errors).to_contain_text(re.compile(r"rejected requests \(4xx\): [1-9]"))
    expect(errors.locator(".value")).to_have_text("0%")
    expect(page.get_by_role("row", name="/predict")).to_be_visible()
    expect(page.get_by_role("row", name="/explain")).to_be_visible()
    expect(page.get_by_role("row", name="Decode")).to_be_visible()
    expect(page.locator(".classes")).to_contain_text("ship")
    expect(page.locator(".load")).to_contain_text("Images in a batch, predictions")
    explanations = page.locator(".explained")
    expect(explanations).to_contain_text(re.compile("% of the answers .* [0-9]+ asked for"))
    expect(explanations).to_contain_text("Grad-CAM: cosine with another class's map")
    expect(explanations).to_contain_text("The latest Grad-CAMs, beside those of images held out")
    page.get_by_label("the last minute").check()
    expect(page.get_by_role("row", name="/predict")).to_be_visible()


SCRAPE = r"""
# HELP t Time.
t_bucket{stage="x",le="1.0"} 10.0
t_bucket{stage="x",le="2.0"} 30
t_bucket{stage="x",le="+Inf"} 40
n_total{label="a \"b\" {c}, d"} 3
n_total{label="e"} 4.5e1
"""


def test_quantiles_agree_with_prometheus(visit):
    page = visit.open()
    found = page.evaluate(
        """async (text) => {
            const { parse, histograms, quantile, growth, total } = await import("/web/metrics.js");
            const scrape = parse(text);
            const buckets = histograms(scrape, "t", "stage").get("x");
            const fresh = growth(buckets, [[1, 4], [2, 4], [Infinity, 4]]);
            const quantiles = [0.1, 0.5, 0.99].map((share) => quantile(buckets, share));
            quantiles.push(quantile([[-0.5, 9], [Infinity, 9]], 0.5));
            const { label } = scrape.get("n_total")[0].labels;
            return [quantiles, quantile(fresh, 0.5), total(scrape, "n_total"), label];
        }""",
        SCRAPE,
    )
    assert found == [[0.4, 1.5, 2, -0.5], pytest.approx(1.6), 48, 'a "b" {c}, d']


def test_grafana_is_linked_if_its_address_is_set(visitor, visit, marked):
    assert visit.open("watch").locator("#watch .lead a").count() == 0
    link = visitor(marked.url).open("watch").locator("#watch .lead a")
    expect(link).to_have_attribute("href", "https://grafana.example/d/candor")


# Model


def test_the_tab_model_shows_the_manifest_and_the_card(visit, server, embedded):
    page = visit.open("model")
    text = page.locator("#model")
    expect(text).to_contain_text(embedded.manifest.version)
    for label in embedded.manifest.labels:
        expect(text).to_contain_text(label)
    expect(page.locator(".card-text h2").first).to_be_visible()
    expect(text).to_contain_text("predict.onnx")
    page.get_by_text("The whole manifest").click()
    expect(page.locator("#model pre").last).to_contain_text('"schema_version": 1')


def test_the_card_is_a_page_with_language_theme_and_a_way_back(visitor):
    visit = visitor(locale="zh-CN")
    page = visit.open("model")
    page.get_by_role("link", name="单独打开模型卡").click()
    expect(page.locator("article h1").first).to_be_visible()
    expect(page.locator("article")).to_have_attribute("lang", "en")
    page.get_by_role("button", name="跟随系统").click()
    expect(page.get_by_role("button", name="浅色")).to_be_visible()
    page.get_by_role("button", name="中文 / EN").click()
    page.get_by_role("link", name="Back to the page").click()
    expect(page.locator("#model h1")).to_have_text("What is it?")


def test_plots_of_the_bundle_are_shown(visitor, marked):
    page = visitor(marked.url).open("model")
    for image in page.locator("#model img").all():
        image.scroll_into_view_if_needed()
        expect(image).to_have_js_property("naturalWidth", 64)
    assert page.locator("#model img").count() == 2, "in the card, and among the plots"


@pytest.mark.parametrize(
    ("locale", "warning"),
    [("en-GB", "Do not rely on this model"), ("zh-CN", "请不要依赖此模型")],
)
def test_a_model_that_is_no_better_than_guessing_warns_before_and_beside_its_answers(
    locale, warning, visitor, marked
):
    page = visitor(marked.url, locale=locale).open()
    for tab in ("try", "model"):
        page.locator(f"#tab-{tab}").click()
        notice = page.locator(f"#{tab}").get_by_role("alert")
        expect(notice).to_contain_text(warning)
        expect(notice.locator("[lang=en]")).to_have_text(REMARK)


def test_a_model_that_is_better_than_guessing_has_no_warning(visit):
    page = visit.open("model")
    expect(page.locator("#model .facts").first).to_be_visible()
    assert page.get_by_role("alert").count() == 0


# The API's documentation


def test_the_documentation_shows_every_route_and_its_examples_work(visit, server):
    page = visit.page
    page.goto("/docs")
    page.wait_for_selector("details")
    paths = page.locator("summary code").all_inner_texts()
    assert set(server.client.get("/openapi.json").json()["paths"]) <= set(paths)
    for name in ("GET /methods", "POST /predict", "POST /v1/models/{name}:predict"):
        verb, path = name.split(" ")
        operation = page.locator(
            "details", has=page.locator("summary code", has_text=re.compile(f"^{re.escape(path)}$"))
        ).first
        operation.locator("summary").click()
        operation.get_by_role("button", name="Send").click()
        expect(operation.locator(".status")).to_contain_text("200")
        command = operation.locator(".trial pre").last.inner_text().replace("\\\n", "")
        done = subprocess.run(
            [*shlex.split(command), "-w", "%{http_code}"],
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert done.stdout.endswith(b"200"), verb


@pytest.fixture(scope="module")
def keyed(tmp_path_factory, marked):
    """A server that wants keys, and three of them: a visitor's, an operator's and a scraper's."""
    folder = tmp_path_factory.mktemp("keyed")
    made = {
        "visitor": make("visitor", ("predict", "explain")),
        "operator": make("operator", SCOPES),
        "scraper": make("scraper", ("metrics",)),
    }
    (folder / "keys").touch(0o600)
    (folder / "keys").write_text("\n".join(line for _, line in made.values()))
    bundle = marked.environment["CANDOR_BUNDLE"]
    with Server(folder, keys=folder / "keys", bundle=bundle, workers=1) as server:
        yield server, {name: secret for name, (secret, _) in made.items()}


@pytest.fixture
def shut(browser, keyed):
    """A visitor of the server that wants keys; the console shows the answers without one."""
    visitor = Visit(browser, keyed[0].url)
    yield visitor
    visitor.close()
    assert [error for error in visitor.errors if "40" not in error] == []
    assert visitor.foreign == []


def give(page, key):
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Continue").click()


def test_the_page_asks_for_a_key_and_keeps_it_in_its_tab(shut, keyed):
    page = shut.page
    page.goto("/#try")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert findings(page) == []
    give(page, "candor_wrong")
    expect(page.get_by_role("alert")).to_have_text("The service does not know this key.")
    give(page, keyed[1]["visitor"])
    page.wait_for_selector("#try h1")
    shut.sample()
    page.reload()
    page.wait_for_selector("#try h1")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.evaluate("Object.values(sessionStorage)") == [keyed[1]["visitor"]]
    assert page.evaluate("Object.values(localStorage).join()").find("candor_") == -1
    assert page.context.cookies() == []
    assert not any(keyed[1]["visitor"] in url for url in shut.requests)


def test_a_key_without_the_scope_is_a_message(shut, keyed):
    page = shut.page
    page.goto("/#watch")
    give(page, keyed[1]["visitor"])
    expect(page.get_by_text("The key does not allow this").first).to_be_visible()


def test_an_operators_key_shows_the_plots_of_the_card(shut, keyed):
    page = shut.page
    page.goto("/#model")
    give(page, keyed[1]["operator"])
    for image in (page.locator("#model .plots img"), page.locator("#model .card-text img")):
        image.first.scroll_into_view_if_needed()
        expect(image.first).to_have_js_property("naturalWidth", 64)


def test_the_documentation_names_the_scope_and_the_key_of_a_request(shut, keyed):
    page = shut.page
    page.goto("/docs")
    give(page, keyed[1]["visitor"])
    page.wait_for_selector("details")
    for path, needed in (("/explain", True), ("/livez", False)):
        operation = page.locator(
            "details", has=page.locator("summary code", has_text=re.compile(f"^{path}$"))
        ).first
        operation.locator("summary").click()
        expect(operation.locator("pre").first).to_be_visible()
        for text in ("Needs a key with the scope explain.", '-H "Authorization: Bearer $KEY"'):
            shown = expect(operation)
            (shown.to_contain_text if needed else shown.not_to_contain_text)(text)


def test_without_a_key_the_page_shows_that_one_is_needed(shut):
    page = shut.page
    page.goto("/#try")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#start-error").get_by_text("This service needs a key")).to_be_visible()


def test_a_script_in_a_label_a_card_or_a_file_name_does_not_run(visitor, marked, tmp_path):
    visit = visitor(marked.url)
    page = visit.open()
    name = SCRIPT.replace("/", "") + ".png"
    page.locator("#files").set_input_files(
        [
            {"name": name, "mimeType": "image/png", "buffer": SHIP.read_bytes()},
            {"name": name, "mimeType": "image/png", "buffer": b"noise"},
        ]
    )
    page.wait_for_selector(".verdict")
    expect(page.locator("figcaption")).to_contain_text("<script>")
    page.locator("#tab-why").click()
    visit.settle()
    page.get_by_label("Explain", exact=True).select_option(value="8")
    visit.settle()
    expect(page.locator(".question")).to_contain_text(SCRIPT)
    page.get_by_label("rather than").select_option(value="9")
    visit.settle()
    page.get_by_role("button", name="Brush the strongest tenth").click()
    expect(page.locator(".result")).to_contain_text(SCRIPT)
    page.locator("#tab-model").click()
    expect(page.locator(".card-text")).to_contain_text(SCRIPT)
    assert page.locator(".card-text a").count() == 0, "no link that runs a script"
    page.locator("#tab-watch").click()
    expect(page.locator(".classes")).to_be_visible()
    page.goto("/docs")
    page.wait_for_selector("details")
    assert page.evaluate("window.ran") is None
    assert page.locator("script:not([src])").count() == 0


def test_the_policy_is_in_force(browser, server):
    visit = Visit(browser, server.url)
    page = visit.open()
    ran = page.evaluate(
        """async () => {
            const tried = {};
            const attempt = (name, work) => {
                tried[name] = "refused";
                try { work(); tried[name] = "done"; } catch {}
            };
            attempt("markup", () => { document.createElement("div").innerHTML = "<b>a</b>"; });
            attempt("inline script", () => {
                const script = document.createElement("script");
                script.append("window.inline = 1");
                document.body.append(script);
            });
            attempt("handler", () => document.body.setAttribute("onclick", "window.handled = 1"));
            document.body.click();
            attempt("frame", () => document.body.append(document.createElement("iframe")));
            const request = fetch("http://127.0.0.1:9/");
            await request.then(() => (tried.fetch = "done"), () => (tried.fetch = "refused"));
            return { ...tried, inline: window.inline ?? 0, handled: window.handled ?? 0 };
        }"""
    )
    visit.close()
    assert (ran["markup"], ran["fetch"]) == ("refused", "refused")
    assert (ran["inline"], ran["handled"]) == (0, 0)
    assert any("Content Security Policy" in error for error in visit.errors)
