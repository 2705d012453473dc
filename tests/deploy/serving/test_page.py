"""The page in a real Chromium; on a machine without one these tests are skipped, unless it is required."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_run import write_engine
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait
from serving_process import Server

from deploy.serving.page import FILES

WAIT = 20


class Browser:
    def __init__(self, chromium: str, driver: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (
            "headless=new",
            "no-sandbox",
            "disable-gpu",
            "disable-dev-shm-usage",
            "disable-extensions",
        ):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self.driver.set_page_load_timeout(WAIT)

    def open(self, url: str, width: int = 1280) -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(url)

    def at(self, identity: str) -> WebElement:
        return self.driver.find_element(By.ID, identity)

    def until(self, says: str) -> None:
        WebDriverWait(self.driver, WAIT, 0.05).until(lambda _: says in self.at("status").text)

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if found[0] is None or found[1] is None:
        if os.environ.get("AFDCD_REQUIRE_BROWSER"):
            pytest.fail("AFDCD_REQUIRE_BROWSER is set, but chromium and chromedriver are not both there")
        pytest.skip("the page needs a browser: apt-get install chromium chromium-driver")
    opened = Browser(found[0], found[1])
    yield opened
    opened.driver.quit()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A quarter of red 2, a quarter of red 1, the rest 0; of no model's size."""
    image = np.full((40, 80, 3), 120, dtype=np.uint8)
    image[..., 0] = 0
    image[:20, :40, 0], image[:20, 40:, 0] = 2, 1
    Image.fromarray(image).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_files_of_the_page_reach_nothing_else(server: Server) -> None:
    for path, (_, kind) in FILES.items():
        reply = server.ask("GET", path)
        assert reply.status == 200 and reply.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert not re.search(rb"https?://|@import|\bon\w+=\"|style=\"|innerHTML", reply.body)


@pytest.mark.browser
def test_two_models_are_compared(browser: Browser, server: Server, photo: Path) -> None:
    browser.open(f"http://{server.http}/")
    browser.until("2 models are ready")
    Select(browser.at("first")).select_by_value("painter")
    Select(browser.at("second")).select_by_value("other")
    browser.at("file").send_keys(str(photo))
    browser.until("Done: photo.png")
    panes = browser.driver.find_elements(By.CLASS_NAME, "pane")
    assert [pane.find_element(By.TAG_NAME, "h2").text for pane in panes] == ["painter", "other"]
    # painter calls red 2 a 1 too.
    rows = [[row.text for row in pane.find_elements(By.CSS_SELECTOR, "tbody tr")] for pane in panes]
    assert sorted(rows[0]) == ["road 50.0 %", "sky 50.0 %"]
    assert sorted(rows[1]) == ["car 25.0 %", "road 50.0 %", "sky 25.0 %"]
    assert browser.at("agreement").text == "painter and other agree on 75.00 % of the pixels."
    assert re.match(r"[\d.]+ ms in all: queue [\d.]+ ms, compute [\d.]+ ms", panes[0].text.splitlines()[1])
    photo_canvas = panes[1].find_element(By.TAG_NAME, "canvas")
    assert photo_canvas.accessible_name.startswith("The image with the mask of other: road 50.0 %")
    browser.at("opacity").send_keys(Keys.HOME)
    masks = browser.driver.find_elements(By.CLASS_NAME, "mask")
    assert [mask.value_of_css_property("opacity") for mask in masks] == ["0", "0"]
    assert browser.errors() == []


@pytest.mark.browser
def test_keyboard_and_screen_reader_on_a_phone(browser: Browser, server: Server, tmp_path: Path) -> None:
    browser.open(f"http://{server.http}/", width=390)
    browser.until("ready")
    reached = []
    for _ in range(4):
        webdriver.ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        focused = browser.driver.switch_to.active_element
        reached.append((focused.get_attribute("id"), bool(focused.accessible_name)))
    assert reached == [("file", True), ("first", True), ("second", True), ("opacity", True)]
    assert browser.at("status").aria_role == "status"
    width = browser.driver.execute_script("return document.documentElement.scrollWidth")
    assert width == 390
    (tmp_path / "no.png").write_bytes(b"no image")
    browser.at("file").send_keys(str(tmp_path / "no.png"))
    browser.until("no whole image")
    browser.errors()  # the browser notes the refused request; leave none to the next test


@pytest.mark.browser
def test_a_token_is_asked_for(browser: Browser, tmp_path: Path, photo: Path) -> None:
    write_engine(tmp_path / "bundle", "painter", highest=1)
    (tmp_path / "token").write_text("open sesame")
    with Server(tmp_path / "bundle", "--token-file", tmp_path / "token", log=tmp_path / "log") as server:
        browser.open(f"http://{server.http}/")
        browser.until("asks for its bearer token")
        browser.at("token").send_keys("wrong", Keys.ENTER)
        browser.until("does not take this token")
        browser.at("token").clear()
        browser.at("token").send_keys("open sesame")
        browser.at("enter").click()
        browser.until("One model is ready")
        assert not browser.at("token").is_displayed()
        browser.at("file").send_keys(str(photo))
        browser.until("Done: photo.png")
