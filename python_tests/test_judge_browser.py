"""The judging page in a real browser, without a window: Debian's chromium and chromium-driver, driven by Selenium."""

import json
import shutil
import time

import numpy as np
import pytest

from benchmarks.killed_judge import free_port, pictures, server
from visgen_fast.evaluation.judge.study import study_of
from visgen_fast.evaluation.judge.votes import Votes

webdriver = pytest.importorskip("selenium.webdriver", reason="the package selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

_DRIVER = shutil.which("chromedriver")
_BROWSER = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    not (_DRIVER and _BROWSER), reason="no chromium and chromedriver: apt-get install chromium chromium-driver"
)

# What the page draws, so that the test sees what a person sees.
_BRIGHTNESS = """
return ["left", "right"].map(side => {
  const image = document.querySelector(`[data-testid=${side}] img`), canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height).data.reduce((sum, value) => sum + value, 0);
});
"""


class Reader:
    """A person in front of the page."""

    def __init__(self, driver, port):
        self.driver, self.address = driver, f"http://127.0.0.1:{port}/"
        driver.get(self.address)

    def find(self, name):
        return self.driver.find_element(By.CSS_SELECTOR, f"[data-testid={name}]")

    def wait_for(self, text, seconds=60):
        WebDriverWait(self.driver, seconds).until(lambda _: self.find("progress").text.startswith(text))

    def begin(self, name):
        self.find("rater").send_keys(name, Keys.ENTER)
        self.wait_for("0 of ")

    def press(self, key):
        self.driver.find_element(By.TAG_NAME, "body").send_keys(key)

    def brighter(self):
        return ("left", "right")[int(np.argmax(self.driver.execute_script(_BRIGHTNESS)))]


@pytest.fixture
def driver(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = _BROWSER
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,800"):
        options.add_argument(option)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(_DRIVER))
    yield opened
    opened.quit()


@pytest.fixture
def study(tmp_path):
    return pictures(tmp_path / "sets", ("good", "poor"), 12), tmp_path / "votes.db", free_port()


def rows(study):
    sets, db, _ = study
    votes = Votes(db, study_of(sets))
    found = votes.standing()
    votes.close()
    return found


def test_a_study_by_keyboard_and_mouse_undone_and_resumed_after_a_reload(driver, study):
    sets, db, port = study
    with server(sets, db, port, "--question", "Which is brighter?"):
        reader = Reader(driver, port)
        assert driver.find_element(By.TAG_NAME, "h1").text == "Which is brighter?"
        assert not reader.find("left").is_enabled()
        reader.begin("ann")
        chosen = []
        for number in range(4):  # by keyboard and by mouse
            chosen.append(reader.brighter())
            if number % 2:
                reader.find(chosen[-1]).click()
            else:
                reader.press(Keys.ARROW_LEFT if chosen[-1] == "left" else Keys.ARROW_RIGHT)
            reader.wait_for(f"{number + 1} of 13")
        before = reader.find("left").find_element(By.TAG_NAME, "img").get_attribute("src")
        reader.press(Keys.ARROW_DOWN)
        reader.wait_for("5 of 13")
        reader.press("z")
        reader.wait_for("4 of 13")
        assert reader.find("left").find_element(By.TAG_NAME, "img").get_attribute("src") == before
        driver.refresh()
        reader.wait_for("4 of 13")
        assert reader.find("rater").get_attribute("value") == "ann"
        assert reader.find("left").find_element(By.TAG_NAME, "img").get_attribute("src") == before
        reader.find("undo").click()  # across the reload
        reader.wait_for("3 of 13")
        assert reader.brighter() == chosen[3]
        reader.find("tie").click()
        reader.wait_for("4 of 13")
        reader.press("s")
        reader.wait_for("5 of 13")
    found = rows(study)
    assert [row.choice for row in found] == [*chosen[:3], "tie", "skip"]
    assert all(getattr(row, row.choice) == "good" for row in found[:3])


def test_answers_wait_in_the_page_for_a_server_that_died(driver, study):
    sets, db, port = study
    with server(sets, db, port):
        reader = Reader(driver, port)
        reader.begin("ann")
        reader.press(Keys.ARROW_LEFT)
        reader.wait_for("1 of 13")
    reader.press(Keys.ARROW_RIGHT)  # nobody listens
    alert = driver.find_element(By.CSS_SELECTOR, "[role=alert]")
    WebDriverWait(driver, 60).until(lambda _: "1 of your answers wait here" in alert.text)
    with server(sets, db, port):
        reader.wait_for("2 of 13")
        assert alert.text == ""
        assert [row.choice for row in rows(study)] == ["left", "right"]


def test_the_page_fits_a_phone_enlarges_without_smoothing_and_speaks(driver, study):
    sets, db, port = study
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    )
    with server(sets, db, port):
        reader = Reader(driver, port)
        reader.begin("ann")
        assert driver.execute_script("return document.documentElement.scrollWidth <= 360")
        boxes = [reader.find(name).rect for name in ("left", "right")]
        assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
        assert all(box["width"] > 150 for box in boxes)
        assert all(reader.find(name).rect["height"] >= 44 for name in ("tie", "skip", "undo"))
        image = reader.find("left").find_element(By.TAG_NAME, "img")
        assert image.value_of_css_property("image-rendering") == "pixelated"
        names = [reader.find(name).accessible_name for name in ("left", "right", "tie", "skip", "undo", "rater")]
        assert all(names) and len(set(names)) == 6 and "left" in names[0].lower()
        assert reader.find("progress").aria_role == "status"


def test_nothing_in_page_or_traffic_tells_the_sets(driver, study):
    sets, db, port = study
    with server(sets, db, port):
        reader = Reader(driver, port)
        reader.begin("ann")
        for number in range(3):
            reader.press(Keys.ARROW_LEFT)
            reader.wait_for(f"{number + 1} of 13")
        time.sleep(0.5)
        log = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        traffic = json.dumps([entry for entry in log if entry["method"].startswith("Network.")])
        told = traffic + driver.page_source + json.dumps(driver.execute_script("return {...localStorage}"))
        assert "/picture/" in traffic and "/api/vote" in traffic
        for secret in ("good", "poor", "0.png", "votes.db", str(sets[0].parent)):
            assert secret not in told
        asked = [entry["params"] for entry in log if entry["method"] == "Network.requestWillBeSent"]
        addresses = {one["request"]["url"] for one in asked if one["documentURL"].startswith(reader.address)}
        assert len(addresses) > 10 and all(url.startswith((reader.address, "data:")) for url in addresses)
        assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
