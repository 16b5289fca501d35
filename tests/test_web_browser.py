"""The pages in a real browser: headless Chromium, where it and playwright are installed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tests.postgres import wait_until
from tests.web_cases import PAGE, Site, serving

PHONE = {"width": 360, "height": 640}
PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FORM = "<form method=post action={url}/write><button>Save</button></form>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None or find_spec("playwright") is None:
        pytest.skip(
            "NOT TESTED in a browser. Cure: pip install playwright, "
            "apt-get install chromium-headless-shell."
        )
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def four() -> Iterator[Site]:
    with serving("gunicorn-gthread", workers=4) as started:

        def all_four() -> bool:
            started.ask()  # each registers with its first request
            return "workers: 4" in started.ask(PAGE).text

        wait_until(all_four, "four workers")
        yield started


@pytest.fixture
def fresh(four: Site) -> Iterator[Site]:
    four.off()
    yield four
    four.off()


def url(site: Site) -> str:
    return f"http://127.0.0.1:{site.port}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_phone_sees_the_flip_and_the_drain_of_four_workers(
    chromium: Any, fresh: Site, scheme: str
) -> None:
    context = chromium.new_context(
        viewport=PHONE, color_scheme=scheme, extra_http_headers={"X-Variant": "details"}
    )
    page = context.new_page()
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    loads: list[str] = []
    page.on("load", lambda: loads.append("loaded"))
    page.goto(url(fresh) + PAGE)
    assert page.locator("tbody tr").count() == 4
    assert "Read-write: changes are saved." in page.inner_text("#mode")
    fresh.on("Upgrade of <b>18</b>")
    page.wait_for_selector("text=drained: 4", timeout=20_000)
    assert "Read-only: nothing can be saved for the moment." in page.inner_text("#mode")
    assert "Upgrade of <b>18</b>" in page.inner_text("#state")
    assert page.locator("td:text-is('drained')").count() == 4
    assert page.title() == "Read-only"
    assert loads == ["loaded"]  # nothing was loaded anew
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(19, 19, 19)"}[scheme]
    assert trouble == []
    if place := os.environ.get("SA_READONLY_SCREENSHOTS"):
        page.screenshot(path=f"{place}/status-{scheme}.png")
    context.close()


def test_a_page_that_can_not_look_any_more_says_so(chromium: Any, fresh: Site) -> None:
    page = chromium.new_page()
    page.goto(url(fresh) + PAGE)
    page.route("**/*", lambda route: route.abort())
    page.wait_for_selector("text=what is shown here is old", timeout=20_000)
    page.unroute("**/*")
    page.wait_for_selector("text=is old", state="detached", timeout=20_000)
    page.close()


def test_without_scripts_the_page_loads_itself_anew(chromium: Any, fresh: Site) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(url(fresh) + PAGE)
    fresh.on()
    page.wait_for_selector("text=nothing can be saved", timeout=20_000)
    context.close()


def test_a_form_that_is_posted_while_read_only_shows_that_it_was_not_saved(
    chromium: Any, fresh: Site
) -> None:
    page = chromium.new_page(viewport=PHONE)
    page.goto(url(fresh))
    page.set_content(FORM.format(url=url(fresh)))
    fresh.on("Upgrade")
    page.click("button")
    page.wait_for_selector("h1")
    assert page.inner_text("h1") == "Not saved"
    assert "Upgrade" in page.inner_text("main")
    assert page.evaluate("getComputedStyle(document.querySelector('.mode')).fontWeight") == "600"
    if place := os.environ.get("SA_READONLY_SCREENSHOTS"):
        page.screenshot(path=f"{place}/not-saved.png")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", [PAGE, "/write"])
def test_an_accessibility_check_finds_nothing(
    chromium: Any, fresh: Site, path: str, scheme: str
) -> None:
    if find_spec("axe_playwright_python") is None:
        pytest.skip("NOT TESTED: accessibility. Cure: pip install axe-playwright-python.")
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415

    context = chromium.new_context(
        viewport=PHONE,
        color_scheme=scheme,
        bypass_csp=True,  # the policy keeps the checker out, too
        extra_http_headers={"X-Variant": "details"},
    )
    page = context.new_page()
    for turn in (fresh.off, fresh.on):
        turn()
        if turn == fresh.off and path != PAGE:
            continue
        page.goto(url(fresh) + path)
        found = Axe().run(page).response["violations"]
        assert [(one["id"], one["help"]) for one in found] == []
    context.close()
    assert re.search("read", fresh.ask(PAGE).text)
