"""`plansmith ui`: a served model tried in a real browser, by whoever has the address and nobody else."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest
from browsing import DESKTOP, PHONE, chromium, resize
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait
from sklearn.datasets import load_digits

from plansmith_client import Client, InvalidInput, TensorSpec
from plansmith_client.commands.ui_server import PageServer
from plansmith_client.testing import FakeModel, FakeServer

if TYPE_CHECKING:
    from collections.abc import Iterator

# A name that would do something if it were not text.
HOSTILE = "<img src=x onerror=document.title='seen'>"


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def address(committed_server):
    command = [
        Path(sys.executable).with_name("plansmith"),
        "ui",
        "digits",
        "--url",
        committed_server.grpc_url,
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield json.loads(process.stdout.readline())["address"]
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 130


@pytest.fixture
def page(browser):
    """Opens a page and gives what finds an element of it by its id."""

    def opened(address: str, size: tuple[int, int] = DESKTOP):
        resize(browser, size)
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(address)
        WebDriverWait(browser, 60).until(lambda _: browser.find_element(By.ID, "inputs").text)
        return lambda name: browser.find_element(By.ID, name)

    return opened


@contextlib.contextmanager
def opened(models: dict[str, FakeModel], port: int = 0, model: str | None = None) -> Iterator[PageServer]:
    with Client("localhost:1", transport=FakeServer(models)) as client, PageServer(client, port, model) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def sent(browser, at, button: str, text: str) -> None:
    waiting = WebDriverWait(browser, 60)
    waiting.until(lambda _: at(button).is_enabled())
    browser.execute_script("document.getElementById('answer').textContent = ''")
    at(button).click()
    waiting.until(lambda _: text in at("answer").text + at("problem").text and at(button).is_enabled())


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_an_input_is_tried_and_answered(browser, page, address, tmp_path, size):
    at = page(address, size)
    assert "images FP32 [-1, 8, 8]" in at("inputs").text
    assert '"max_batch_size": 32' in at("config").text
    at("typed").send_keys(json.dumps({"images": load_digits().images[:1].tolist()}))
    sent(browser, at, "send", "probabilities FP32 [1, 10]")
    assert at("best").text.startswith("probabilities, row 0: 0, ")
    counted = int(at("statistics").text.split("\n")[0].split()[-1])
    picture = tmp_path / "any.png"
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(picture)
    at("file").send_keys(str(picture))
    sent(browser, at, "send", "probabilities FP32 [1, 10]")
    sent(browser, at, "random", "probabilities FP32 [1, 10]")
    WebDriverWait(browser, 60).until(lambda _: int(at("statistics").text.split("\n")[0].split()[-1]) > counted)
    # A mistake is said in the words of the client.
    at("typed").clear()
    at("typed").send_keys("x")
    sent(browser, at, "send", "one input of text")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    # Chromium itself notes that an answer was a refusal.
    assert [entry for entry in browser.get_log("browser") if "400" not in entry["message"]] == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_model_that_is_named_is_opened_and_names_are_text(browser, page, size):
    x, y = TensorSpec(HOSTILE, "FP32", (-1, 2)), TensorSpec(f"{HOSTILE}y", "FP32", (-1, 2))
    model = FakeModel(lambda inputs: {y.name: inputs[x.name]}, [x], [y])
    with opened({"!": model, HOSTILE: model}, model=HOSTILE) as server:
        at = page(server.address, size)
        assert Select(at("model")).first_selected_option.text == HOSTILE
        assert HOSTILE in at("inputs").text
        sent(browser, at, "random", f"{HOSTILE}y FP32 [1, 2]")
        assert browser.title == "plansmith"
        assert browser.find_elements(By.CSS_SELECTOR, "img[src=x]") == []


def test_a_fixed_first_dimension_many_values_and_a_large_file(browser, page, tmp_path):
    x, y = TensorSpec("x", "FP32", (3, 2)), TensorSpec("y", "FP32", (100, 100))
    model = FakeModel(lambda _: {"y": np.zeros((100, 100), np.float32)}, [x], [y], max_batch_size=0)
    with opened({"m": model}) as server:
        at = page(server.address)
        sent(browser, at, "random", "y FP32 [100, 100]")
        assert at("answer").text.endswith("(8000 more values)")
        large = tmp_path / "large.npy"
        with large.open("wb") as file:
            file.truncate(2**26 + 1)
        at("file").send_keys(str(large))
        sent(browser, at, "send", "the input has 67108865 bytes, and this page sends at most 67108864")


def test_port_80_is_left_out_of_the_name_of_the_host():
    try:
        with opened({}, port=80):
            connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=30)
            connection.request("GET", "/", headers={"Host": "localhost"})
            assert connection.getresponse().status == 200
            connection.close()
    except InvalidInput as error:
        pytest.skip(str(error))


def test_only_the_page_itself_is_given_without_the_token_and_nothing_under_another_name(address):
    host, token = urlsplit(address).netloc, urlsplit(address).fragment

    def status(path: str, method: str = "GET", **headers: str) -> int:
        connection = http.client.HTTPConnection(host, timeout=30)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        assert answer.getheader("Access-Control-Allow-Origin") is None
        assert token not in answer.read().decode()
        connection.close()
        return answer.status

    ours = {"Authorization": f"Bearer {token}"}
    assert status("/") == 200
    assert status("/models", **ours) == 200
    assert status("/model?model=nosuch", **ours) == 400
    assert status("/models") == 403
    assert status(f"/models?token={token}", Authorization="Bearer x") == 403
    assert status("/infer?model=digits&kind=random", "POST") == 403
    assert status("/infer?model=digits&kind=random", "OPTIONS", Origin="http://elsewhere") == 501
    for path in ("/", "/models"):
        assert status(path, Host="elsewhere.example", **ours) == 403
