"""The real tools from PyPI on one machine, used in a real browser on another.

`DSTACK_REAL_APPS=1 pytest tests/e2e/test_real_apps.py -s`, with Debian's chromium and
chromium-driver and PyPI's selenium; some 400 MB are installed from PyPI.
"""

# selenium is no dependency of ours, so nothing of it has a type here.
# pyright: basic

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.eventually import eventually
from support.lab import DSTACK, Peer, join_mesh, make_peer, project

pytestmark = [
    pytest.mark.may_skip,
    pytest.mark.skipif("DSTACK_REAL_APPS" not in os.environ, reason="DSTACK_REAL_APPS is not set"),
]

WORKFLOWS = """
workflows:
  - name: train
    provider: python
    file: train.py
    requirements: requirements.txt
    artifacts: [logs]
  - name: serve
    provider: fastapi
    app: main:app
"""

TRAIN = """
import time
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

writer = EventFileWriter("logs")
for step in range(20):
    value = Summary(value=[Summary.Value(tag="loss_of_training", simple_value=1 / (step + 1))])
    writer.add_event(Event(wall_time=time.time(), step=step, summary=value))
writer.close()
"""

STREAMLIT = """
import streamlit as st

chosen = st.slider("How many", 0, 100, 5)
st.write(f"There are {chosen} of them.")
"""

GRADIO = """
import gradio as gr

gr.Interface(lambda name: f"Hello {name}, from the job.", "text", "text").launch()
"""

MAIN = """
from fastapi import FastAPI

app = FastAPI()

@app.get("/square/{number}")
def square(number: int) -> dict[str, int]:
    return {"square": number * number}
"""

NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "id": "one",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": "import os\nprint('from the kernel of', os.environ['RUN_NAME'], 6 * 7)",
        }
    ],
    "metadata": {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
    },
    "nbformat": 4,
    "nbformat_minor": 5,
}


@dataclass(frozen=True)
class Lab:
    """Who runs the tools, who uses them, and the project."""

    station: Peer
    laptop: Peer
    code: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("real")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    env = {"DSTACK_MDNS": "0", "DSTACK_SEEDS": f"127.0.0.1:{port}"}
    station = make_peer(folder, "station", (), USER="sue", **env)
    laptop = make_peer(folder, "laptop", (), USER="ana", **env)
    join_mesh(station, laptop, role="submitter")
    code = project(
        folder / "code",
        WORKFLOWS,
        train_DOT_py=TRAIN,
        app_DOT_py=STREAMLIT,
        demo_DOT_py=GRADIO,
        main_DOT_py=MAIN,
        a_DOT_ipynb=json.dumps(NOTEBOOK),
        requirements_DOT_txt="tensorboard\n",
    )
    with station.runner("--listen", f"127.0.0.1:{port}"):
        yield Lab(station, laptop, code)


@contextlib.contextmanager
def opened(lab: Lab, *words: str) -> Generator[tuple[str, str]]:
    """A run with an app: its link, and the run's name."""
    out = lab.laptop.home / f"out-{time.monotonic_ns()}"
    name = words[0] if words[0] != "serve" else "fastapi"
    with out.open("wb") as file:
        process = lab.laptop.popen(
            (*DSTACK, "run", *words, "--remote", "--no-open"),
            cwd=lab.code,
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
        )
    pattern = re.compile(rf"^{name}: (http://\S+)", re.MULTILINE)
    began = time.monotonic()
    try:
        eventually(lambda: pattern.search(out.read_text()) or process.poll(), within=400)
        found = pattern.search(out.read_text())
        assert found is not None, out.read_text()
        print(f"\n{name}: {found[1][:60]} after {time.monotonic() - began:.0f} s")
        yield found[1], out.read_text().split()[0]
    except BaseException:
        print(out.read_text()[-3000:])
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    selenium = pytest.importorskip("selenium.webdriver")
    if not shutil.which("chromedriver"):
        pytest.skip("there is no chromedriver")
    options = selenium.ChromeOptions()
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        "window-size=1400,1000",
    ):
        options.add_argument(f"--{flag}")
    driver = selenium.Chrome(options, selenium.ChromeService(shutil.which("chromedriver")))
    driver.set_page_load_timeout(90)
    try:
        yield driver
    finally:
        driver.quit()


def body(browser: Any) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def shows(browser: Any, text: str, within: float = 60) -> None:
    """Waits until the page shows a text."""
    try:
        eventually(lambda: text in body(browser), within=within)
    except AssertionError:
        browser.save_screenshot("/tmp/real-apps.png")
        raise


def element(browser: Any, selector: str, within: float = 60) -> Any:
    """The first element of a selector that can be seen."""

    def look() -> Any:
        found = browser.find_elements("css selector", selector)
        return next((each for each in found if each.is_displayed()), None)

    try:
        return eventually(look, within=within)
    except AssertionError:
        browser.save_screenshot("/tmp/real-apps.png")
        raise


def run_cell(browser: Any, name: str) -> None:
    """Runs the cell of the notebook that is open, by the keys that a person presses."""
    keys = pytest.importorskip("selenium.webdriver").Keys
    chains = pytest.importorskip("selenium.webdriver").ActionChains
    trouble = pytest.importorskip("selenium.common").WebDriverException

    def look() -> bool:
        with contextlib.suppress(trouble):  # the page is still being drawn
            for asked in browser.find_elements("css selector", ".jp-Dialog .jp-mod-accept"):
                asked.click()  # which kernel, if it had not started yet
            element(browser, ".jp-CodeCell .cm-content", within=90).click()
            chains(browser).key_down(keys.SHIFT).send_keys(keys.ENTER).key_up(keys.SHIFT).perform()
        time.sleep(2)
        return f"from the kernel of {name} 42" in body(browser)

    try:
        eventually(look, within=60)
    except AssertionError:
        browser.save_screenshot("/tmp/real-apps.png")
        raise


def test_a_cell_runs_in_jupyterlab(lab: Lab, browser: Any) -> None:
    with opened(lab, "lab") as (url, name):
        browser.get(url)
        base = url.partition("/lab?")[0]
        element(browser, "#jp-main-dock-panel, .jp-Launcher")
        browser.get(f"{base}/lab/tree/a.ipynb")
        run_cell(browser, name)


def test_a_cell_runs_in_notebook(lab: Lab, browser: Any) -> None:
    with opened(lab, "notebook") as (url, name):
        browser.get(url)
        base = url.partition("/tree?")[0]
        shows(browser, "a.ipynb")
        browser.get(f"{base}/notebooks/a.ipynb")
        run_cell(browser, name)


def test_a_slider_moves_in_streamlit(lab: Lab, browser: Any) -> None:
    with opened(lab, "streamlit", "app.py") as (url, _):
        browser.get(url)
        shows(browser, "There are 5 of them.")
        element(browser, '[data-testid="stSlider"]').click()  # in its middle
        eventually(lambda: re.search(r"There are [3-7]\d of them\.", body(browser)), within=60)


def test_a_function_is_called_in_gradio(lab: Lab, browser: Any) -> None:
    with opened(lab, "gradio", "demo.py") as (url, _):
        browser.get(url)
        element(browser, "textarea").send_keys("Ana")
        element(browser, "button.primary, button.lg.primary").click()

        def answered() -> bool:
            fields = browser.find_elements("css selector", "textarea")
            values = [each.get_attribute("value") or "" for each in fields]
            return "Hello Ana, from the job." in values

        eventually(answered, within=60)


def test_a_request_is_answered_by_fastapi(lab: Lab) -> None:
    with opened(lab, "serve") as (url, _):
        assert url.endswith("/docs")
        with urllib.request.urlopen(url.replace("/docs", "/square/12"), timeout=20) as answer:
            assert json.load(answer) == {"square": 144}


def test_tensorboard_shows_a_scalar_of_an_earlier_run(lab: Lab, browser: Any) -> None:
    trained = lab.laptop.dstack("run", "train", "--remote", cwd=lab.code, timeout=300, check=True)
    run = trained.stderr.decode().split()[0]
    with opened(lab, "tensorboard", run) as (url, _):
        with urllib.request.urlopen(f"{url}data/plugin/scalars/tags", timeout=20) as answer:
            tags = json.load(answer)
        assert {where: list(named) for where, named in tags.items()} == {
            f"{run}/logs": ["loss_of_training"]
        }
        browser.get(url)
        shows(browser, "loss_of_training")
