"""The report in a real browser: scripts run under the page's own policy, and nothing leaves the page."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scoresde.report import write_report
from tests.report.test_report_sweep import EVIL, job, make_run

webdriver = pytest.importorskip("selenium.webdriver", reason="the report's browser tests need selenium")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="the report's browser tests need Chromium and its chromedriver"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep: three configurations, one with two seeds; hostile names; a job that failed."""
    folder = tmp_path_factory.mktemp("sweep")
    for number, (lr, seed, bits) in enumerate(((0.01, 0, 2.5), (0.01, 1, 10.25), (0.002, 0, None), (0.1, 0, 3.5))):
        run = make_run(folder / f"run{number}", lr=lr, seed=seed, bits=bits, note=f"{EVIL} {lr}")
        (run / "comparison.csv").write_text(
            "sampler,steps,seed,nfe,error,error_stderr,problem\n"
            + "".join(f"<b onclick=alert(1)>{EVIL[:9]}</b>{number},{s},0,{s},{1 / s},0.01,\n" for s in (5, 10, 20))
        )
        job(folder, number, run=f"run{number}")
    summary = json.loads((folder / "run1" / "summary.json").read_text())
    (folder / "run1" / "summary.json").write_text(json.dumps({**summary, "name": EVIL}))
    make_run(folder / "moons", data={"_target_": "scoresde.data.two_moons"})
    job(folder, 4, run="moons")
    job(folder, 5, "failed", error=EVIL)
    return write_report(folder)


# The first chart with a title.
CHART = (
    "[...document.querySelectorAll('figure.chart')].find((f) => f.querySelector('h3, h4').textContent === arguments[0])"
)


def load(browser: Any, page: Path, width: int = 1280, scheme: str = "light") -> None:
    """Open the page and wait for its charts."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.get(page.as_uri())
    deadline = time.monotonic() + 60
    while browser.execute_script("return document.documentElement.dataset.drawn") is None:
        assert time.monotonic() < deadline, browser.get_log("browser")
        time.sleep(0.05)


def check_nothing_left_the_page(browser: Any, page: Path) -> None:
    """No message in the console, of which violations of the policy would be some, and no request but for the page."""
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    others = {url for url in sent if not url.startswith(("data:", "blob:"))}
    assert others <= {page.as_uri()}
    assert page.as_uri() in sent


def check_everything_shows(browser: Any) -> None:
    images = browser.execute_script("return [...document.images].map((i) => [i.complete, i.naturalWidth])")
    assert images
    assert all(complete and width > 0 for complete, width in images)
    plots = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map((p) => [p.querySelectorAll('.main-svg').length,"
        " p.querySelectorAll('.trace, .bars .point').length, p.clientWidth])"
    )
    assert plots
    assert all(surfaces > 0 and drawn > 0 and width > 200 for surfaces, drawn, width in plots)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_sweep_shows_everything_and_asks_for_nothing(browser: Any, sweep: Path, width: int, scheme: str) -> None:
    load(browser, sweep, width, scheme)
    check_everything_shows(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # Nothing of the runs became an element: neither in the page, nor in plotly's names.
    elements = "return document.querySelectorAll('[onclick], a[href^=\"javascript\"], .plot a, .plot b').length"
    assert browser.execute_script(elements) == 0
    assert browser.execute_script("return document.scripts.length") == 4  # data, library, script; library unpacked
    legend = browser.execute_script(
        f"return {CHART}.querySelector('.legend').textContent", "Samplers: error of the endpoint"
    )
    assert f"<b onclick=alert(1)>{EVIL[:9]}</b>0" in legend
    check_nothing_left_the_page(browser, sweep)


def column(browser: Any, heading: str) -> list[str]:
    """The cells of a column of the table of runs, as they stand."""
    return browser.execute_script(
        """
        const table = document.querySelectorAll("table[data-sortable]")[1];
        const place = [...table.tHead.rows[0].cells].findIndex((c) => c.textContent === arguments[0]);
        return [...table.tBodies[0].rows].map((row) => row.cells[place].textContent);
        """,
        heading,
    )


def test_tables_sort_both_ways_by_clicks_and_keys(browser: Any, sweep: Path) -> None:
    load(browser, sweep)

    def button(heading: str) -> Any:
        tables = browser.find_elements("css selector", "table[data-sortable]")
        (found,) = [b for b in tables[1].find_elements("tag name", "button") if b.text == heading]
        return found

    def order(heading: str) -> str:
        return button(heading).find_element("xpath", "..").get_attribute("aria-sort")

    bits = "bits/dim ↓"
    up = ["2.50 ± 0.02", "3.50 ± 0.02", "10.25 ± 0.02", "–"]
    assert column(browser, bits) == ["2.50 ± 0.02", "10.25 ± 0.02", "–", "3.50 ± 0.02"]
    assert order(bits) == "none"
    button(bits).click()
    assert column(browser, bits) == up  # as numbers: "10.25" comes before "2.50" as text
    assert order(bits) == "ascending"
    button(bits).click()
    assert column(browser, bits) == [*up[2::-1], "–"]  # what is missing stays last
    assert order(bits) == "descending"
    button("lr").send_keys(webdriver.Keys.ENTER)
    assert column(browser, "lr") == ["0.002", "0.01", "0.01", "0.1"]
    assert column(browser, bits)[0] == "–"  # whole rows move
    assert (order("lr"), order(bits)) == ("ascending", "none")
    button("run").click()
    assert column(browser, "run") == [EVIL, "run0", "run2", "run3"]
    check_nothing_left_the_page(browser, sweep)


def test_a_runs_name_opens_its_part(browser: Any, sweep: Path) -> None:
    load(browser, sweep)
    opened = "return [...document.querySelectorAll('details.run')].map((d) => d.open)"
    assert browser.execute_script(opened) == [False] * 5
    browser.find_elements("css selector", "table[data-sortable]")[1].find_elements("tag name", "a")[2].click()
    deadline = time.monotonic() + 10
    while not any(browser.execute_script(opened)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert browser.execute_script(opened) == [False, False, True, False, False]


def test_a_button_copies_a_command(browser: Any, tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "run"))
    load(browser, page, 390)
    # Without the clipboard's interface, as where a browser refuses it to files.
    browser.execute_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    button = browser.find_elements("css selector", ".command button")[1]
    command = browser.find_elements("css selector", ".command pre")[1].text
    assert button.get_attribute("aria-label") == f"Copy: {command}"
    button.send_keys(webdriver.Keys.ENTER)
    assert button.text == "Copied"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    check_nothing_left_the_page(browser, page)


def test_charts_follow_the_colour_scheme(browser: Any, sweep: Path) -> None:
    load(browser, sweep)
    colour = f"return {CHART}.querySelector('.js-line').style.stroke"
    before = browser.execute_script(colour, "Learning curves")
    media = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    deadline = time.monotonic() + 10
    while browser.execute_script(colour, "Learning curves") == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_shows_everything_and_asks_for_nothing(browser: Any, tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "run", note=EVIL))
    load(browser, page)
    check_everything_shows(browser)
    # A chart can be saved as a picture, which is made in the page.
    made = "Plotly.toImage(document.querySelector('.plot'), {format: 'png'})"
    address = browser.execute_async_script(f"const done = arguments[0]; {made}.then(done, (e) => done(String(e)))")
    assert address.startswith("data:image/png;base64,")
    check_nothing_left_the_page(browser, page)
