"""The stand-ins of images that cannot be had: built as the lab builds them, and run as their images run them."""

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshstrap.lab.programs import Workshop, find_go, make
from meshstrap.lab.recipe import Recipe, read

RECIPE = Path(__file__).parents[2] / "images" / "bundle.yaml"
FULL, EMPTY = 'glyphicon glyphicon-star"', 'glyphicon glyphicon-star-empty"'
Start = Callable[..., int]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return read(RECIPE)


@pytest.fixture(scope="module")
def programs(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    workshop = Workshop(recipe, tmp_path_factory.mktemp("workshop"), find_go(recipe, tmp_path_factory.getbasetemp()))
    for directory in (workshop.scratch, workshop.log("x").parent):
        directory.mkdir()
    return {name: make(workshop, recipe.builds[name]).path for name in ("bookinfo", "tomcat-app")}


@pytest.fixture
def start(recipe: Recipe, programs: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Run an image's program with the image's own arguments and environment, on a free port."""
    running: list[subprocess.Popen[bytes]] = []

    def run(image: str, ending: list[subprocess.Popen[bytes]] | None = None, **ports: int) -> int:
        config = next(i.config for i in recipe.images if any(f"{image}:" in name for name in i.names))
        program = programs[config["Entrypoint"][0].removeprefix("/")]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        *arguments, _ = config["Cmd"]
        where = {f"{name}_HOSTNAME": "127.0.0.1" for name in ports}
        where.update({f"{name}_SERVICE_PORT": str(number) for name, number in ports.items()})
        environment = {**os.environ, **where, **dict(e.split("=", 1) for e in config.get("Env", []))}
        with (tmp_path / image).open("w") as log:
            child = subprocess.Popen([program, *arguments, str(port)], env=environment, stderr=log)
        running.append(child)
        if ending is not None:
            ending.append(child)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return port
            time.sleep(0.05)
        raise AssertionError((tmp_path / image).read_text())

    yield run
    for child in running:
        child.kill()
        child.wait(15)


def get(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    connection.request("GET", path, headers=headers or {})
    reply = connection.getresponse()
    return reply.status, reply.read().decode()


def nobody() -> int:
    """A port that refuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


@pytest.mark.parametrize(("version", "colour"), [("v1", None), ("v2", "black"), ("v3", "red")])
def test_each_version_of_reviews_has_its_own_marker_on_the_page(start: Start, version: str, colour: str | None) -> None:
    ratings = start("examples-bookinfo-ratings-v1")
    reviews = start(f"examples-bookinfo-reviews-{version}", RATINGS=ratings)
    details = start("examples-bookinfo-details-v1")
    page = get(start("examples-bookinfo-productpage-v1", DETAILS=details, REVIEWS=reviews), "/productpage")
    assert page[0] == 200 and "<title>Simple Bookstore App</title>" in page[1]
    assert "ISBN-10" in page[1] and page[1].count("<blockquote>") == 2
    assert (page[1].count(FULL), page[1].count(EMPTY)) == ((9, 1) if colour else (0, 0))
    assert page[1].count("<font color=") == page[1].count(f'<font color="{colour}">') == (2 if colour else 0)


def test_headers_reach_the_last_service_of_the_chain(start: Start, tmp_path: Path) -> None:
    ratings = start("examples-bookinfo-ratings-v1")
    reviews = start("examples-bookinfo-reviews-v3", RATINGS=ratings)
    page = start("examples-bookinfo-productpage-v1", DETAILS=nobody(), REVIEWS=reviews)
    get(page, "/productpage", {"x-request-id": "1234-abcd"})
    assert "GET /ratings/0 1234-abcd" in (tmp_path / "examples-bookinfo-ratings-v1").read_text()


def test_what_is_away_is_said_on_the_page(start: Start) -> None:
    page = start("examples-bookinfo-productpage-v1", DETAILS=nobody(), REVIEWS=nobody())
    status, body = get(page, "/productpage")
    assert status == 200
    assert "Sorry, product reviews are currently unavailable" in body
    assert "Sorry, product details are currently unavailable" in body
    reviews = start("examples-bookinfo-reviews-v2", RATINGS=nobody())
    page = start("examples-bookinfo-productpage-v1", DETAILS=nobody(), REVIEWS=reviews)
    assert get(page, "/productpage")[1].count("Ratings service is currently unavailable") == 2


def test_every_service_of_bookinfo_says_that_it_is_healthy(start: Start) -> None:
    for service in ("productpage", "details", "reviews", "ratings"):
        status, body = get(start(f"examples-bookinfo-{service}-v1"), "/health")
        assert status == 200 and "is healthy" in body


def test_tomcat_app_names_itself_and_writes_each_request_down(start: Start, tmp_path: Path) -> None:
    status, body = get(start("tomcat-app"), "/?mark=7")
    assert status == 200 and "Apache Tomcat" in body
    assert "GET /?mark=7\n" in (tmp_path / "tomcat-app").read_text()


@pytest.mark.parametrize("image", ["tomcat-app", "examples-bookinfo-ratings-v1"])
def test_told_to_end_it_answers_for_a_moment_more_and_then_is_gone(start: Start, image: str) -> None:
    children: list[subprocess.Popen[bytes]] = []
    port = start(image, children)
    children[0].terminate()
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert get(port, "/ratings/0")[0] == 200
    assert children[0].wait(10) == 0
