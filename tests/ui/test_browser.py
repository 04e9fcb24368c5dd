"""The page in Debian's Chromium, as wide as a desk's and a phone's, in the light and in the dark.

Oracles: axe-core for barriers; the browser for requests, errors and what does not fit. Screenshots
are in build/ui, for people to look at.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from aggregator.http.server import Application
from aggregator.pods.resolver import standalone
from aggregator.segment.history import QUANTITIES
from aggregator.segment.store import Store
from tests.aggregator.test_http import server
from tests.live import ROOT
from tests.segment import HOST_SLOT, Segment, column, schema, table
from tests.ui.node import live, segment

CHROMIUM = which("chromium-headless-shell") or which("chromium")
SHOTS = ROOT / "build/ui"
expect.set_options(timeout=60_000)
AXE = resources.files("axe_playwright_python") / "axe.min.js"

pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="no Chromium: `make setup-ui` could not get the package chromium"
)

WIDTHS = {"desk": (1280, 900), "phone": (390, 844)}
# Containers; or what the loader's file is.
SCENES: dict[str, int | str] = {
    "0": 0,
    "5": 5,
    "500": 500,
    "absent": "absent",
    "stale": "stale",
    "incompatible": "incompatible",
}
ROWS = {"0": 1, "5": 5, "500": 302}


def put(scene: str, store: Store, path: Path) -> None:
    """What the loader has left there."""
    what = SCENES[scene]
    if isinstance(what, int):
        live(store, path, what, 20 if what < 500 else 6, down=scene == "5")
    elif what == "stale":
        old = schema(table("t", 1, [column("t_total")]))
        Segment(old, [HOST_SLOT], heartbeat=1, stale_after_ns=1).write(path)
    elif what == "incompatible":
        path.write_bytes(b"x" * 5000)


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where each scene is served."""
    with ExitStack() as stack:
        found = {}
        for scene in SCENES:
            path = tmp_path_factory.mktemp(scene) / "segment"
            store = Store(str(path), clock=time.monotonic_ns, resolver=standalone, node="node-1")
            application = Application(store)
            put(scene, store, path)
            host, port = stack.enter_context(server(application, 20))
            found[scene] = f"http://{host}:{port}"
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        # Root has no sandbox in Chromium; /dev/shm may be small, or not be there.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=arguments, timeout=120_000
        )
        yield found
        found.close()


@dataclass
class Tab:
    """A page, and what the browser had to say."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def barriers(self) -> list[str]:
        """What axe-core finds, of any weight."""
        self.page.evaluate(AXE.read_text())
        found: dict[str, Any] = self.page.evaluate(
            # Of many rows that are alike, the first ones: each takes axe a tenth of a second.
            "axe.run({exclude: ['#table tbody tr:nth-child(n+10)']}, {resultTypes: ['violations']})"
        )
        return [
            f"{v['impact']}: {v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]}"
            for v in found["violations"]
        ]


@contextmanager
def tab(browser: Browser, width: str = "desk", **options: Any) -> Iterator[Tab]:
    wide, high = WIDTHS[width]
    context = browser.new_context(viewport={"width": wide, "height": high}, **options)
    context.set_default_timeout(60_000)  # on a busy machine
    found = Tab(context.new_page())
    found.page.on("console", lambda m: found.errors.append(m.text) if m.type == "error" else None)
    found.page.on("pageerror", lambda error: found.errors.append(str(error)))
    context.on("request", lambda request: found.requests.append(request.url))
    yield found
    context.close()


def names(page: Page) -> list[str]:
    return page.locator("#table tbody th a").all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scene", SCENES)
def test_page(browser: Browser, urls: dict[str, str], scene: str, width: str, scheme: Any) -> None:
    """It fits, has no barrier, asks nobody else for anything; and what is down is what one sees."""
    with tab(browser, width, color_scheme=scheme) as t:
        t.page.goto(urls[scene] + "/")
        if scene in ROWS:
            assert t.page.locator("#table tbody tr").count() == ROWS[scene]
            graphs = t.page.locator("#table svg path")
            assert (graphs.count() > 10) == (scene != "0")
        state = t.page.locator(".state")
        down = "collector l7" if scene == "5" else scene
        if scene in ("0", "500"):
            expect(state).to_contain_text("All works:")
        else:
            expect(state).to_contain_text(f"Down: {'' if scene == '5' else 'segment'}")
            expect(state).to_contain_text(down)
            expect(t.page.locator(".problems li").first).to_be_in_viewport(ratio=1)
        t.page.screenshot(path=SHOTS / f"{scene}-{width}-{scheme}.png")
        # Light and dark differ, as the browser draws them.
        back = t.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (scheme == "light")
        assert t.page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width][0]
        assert t.barriers() == []
        assert t.errors == []
        assert {"/".join(url.split("/")[:3]) for url in t.requests} == {urls[scene]}
        assert len(t.requests) >= 3  # the page, its style, its script; headless, not its icon


@pytest.mark.parametrize(("width", "scheme"), [("desk", "light"), ("phone", "dark")])
def test_page_of_a_pod(browser: Browser, urls: dict[str, str], width: str, scheme: Any) -> None:
    with tab(browser, width, color_scheme=scheme) as t:
        t.page.goto(urls["5"] + "/")
        t.page.locator("#table tbody th a", has_text="pod ").first.click()
        expect(t.page.locator(".charts svg")).to_have_count(len(QUANTITIES))
        expect(t.page.locator("#table tbody tr")).to_have_count(2)
        t.page.screenshot(path=SHOTS / f"pod-{width}-{scheme}.png")
        assert t.page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width][0]
        assert t.barriers() == []
        assert t.errors == []
        assert all(url.startswith(urls["5"]) for url in t.requests)
        t.page.get_by_role("link", name="Node").click()
        expect(t.page.locator("#table tbody tr")).to_have_count(5)


def test_without_script(browser: Browser, urls: dict[str, str]) -> None:
    """All of it is there; links sort, and the form filters."""
    with tab(browser, java_script_enabled=False) as t:
        t.page.goto(urls["5"] + "/")
        assert len(names(t.page)) == 5
        t.page.get_by_role("link", name="Name").click()
        assert names(t.page) == sorted(names(t.page))
        t.page.get_by_role("link", name="Name").click()
        assert names(t.page) == sorted(names(t.page), reverse=True)
        t.page.get_by_label("Name or namespace").fill("NGINX")
        t.page.get_by_role("button", name="Show").click()
        assert names(t.page) == ["nginx.service"]
        t.page.get_by_role("link", name="nginx.service").click()
        assert t.page.locator(".charts svg").count() == len(QUANTITIES)
        assert not any("page.js" in url for url in t.requests)
        assert t.errors == []


def test_live_with_script(browser: Browser, tmp_path: Path) -> None:
    """It follows the node without being loaded again, keeps the focus, can be stopped, and says
    when nobody answers."""
    path = tmp_path / "segment"
    store = Store(str(path), clock=time.monotonic_ns, resolver=standalone)
    application = Application(store)
    live(store, path, 5, 2)
    with tab(browser) as t:
        page, rows = t.page, t.page.locator("#table tbody tr")
        page.clock.install()
        with server(application, 20) as (host, port):
            page.goto(f"http://{host}:{port}/")
            page.evaluate("window.loaded = 1")
            page.get_by_role("link", name="Memory").click()
            expect(page.locator("th[aria-sort]")).to_contain_text("Memory")
            assert page.url.endswith("?sort=memory")
            expect(page.get_by_role("link", name="Memory")).to_be_focused()
            segment(15).write(path)
            page.clock.fast_forward(6000)
            expect(rows).to_have_count(11)
            page.get_by_role("button", name="Pause").click()
            page.wait_for_load_state("networkidle")  # the refresh that was under way
            segment(5).write(path)
            page.clock.fast_forward(60_000)
            assert rows.count() == 11
            page.get_by_role("button", name="Go on").click()
            page.clock.fast_forward(6000)
            expect(rows).to_have_count(5)
            assert page.evaluate("window.loaded") == 1
            assert t.errors == []
        page.clock.fast_forward(6000)
        expect(page.get_by_role("status")).to_contain_text("No answer since")
        expect(rows).to_have_count(5)


def test_prefix_of_a_proxy(browser: Browser, urls: dict[str, str]) -> None:
    """`kubectl proxy` and ingresses serve it below a path of their own: no link begins with /."""
    with tab(browser) as t:
        t.page.goto(urls["5"] + "/")
        links = (
            "[...document.querySelectorAll('[href], [src], [action]')].map("
            "e => e.getAttribute('href') ?? e.getAttribute('src') ?? e.getAttribute('action'))"
        )
        assert [link for link in t.page.evaluate(links) if link.startswith(("/", "http"))] == []
