"""selector_from_config: a selector of configuration keys, and what is wrong in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sa_readonly import ConfigurationError, RoutingSession, selector_from_config
from tests.app import WHICH, App, fill, sqlite_urls
from tests.etcd_fleet import Fleet, bare, fleet

__all__ = ["bare", "fleet"]  # fixtures


def test_the_configuration_makes_a_selector(place: Path) -> None:
    urls = sqlite_urls(place, "rw", "ro")
    for name, url in urls.items():
        fill(url, name)
    selector = selector_from_config(
        {
            "other": "left alone",
            "sa_readonly.file": str(place / "read-only.txt"),
            "sa_readonly.ttl": "0.5",
            "sa_readonly.server_read_only": "error",
            "sa_readonly.read_write.primary.url": str(urls["rw"]),
            "sa_readonly.read_write.primary.pool_size": "7",
            "sa_readonly.read_only.primary.url": str(urls["ro"]),
            "sa_readonly.read_only.replica.url": str(urls["ro"]),
            "sa_readonly.read_only.replica.echo": "false",
        }
    )
    with selector:
        assert selector.switch.path == str(place / "read-only.txt")
        assert selector.switch.ttl == 0.5
        assert selector.engine().pool.size() == 7
        assert vars(selector.engine().dialect).get("_sa_readonly_answers") is None
        with RoutingSession(selector) as session:
            assert session.scalar(WHICH) == "rw"
        selector.switch.enable()
        with RoutingSession(selector, role="replica") as session:
            assert session.scalar(WHICH) == "ro"


ETCD = {
    "sa_readonly.etcd": "http://127.0.0.1:1",
    "sa_readonly.key": "/myapp/mode",
    "sa_readonly.read_write.primary.url": "sqlite:////tmp/y",
}
BASE = {"sa_readonly.file": "/tmp/x", "sa_readonly.read_write.primary.url": "sqlite:////tmp/y"}
WRONG = {
    "an unknown key": (
        {**BASE, "sa_readonly.read_wriet.primary.url": "x", "sa_readonly.tll": "1"},
        "Unknown configuration: sa_readonly.read_wriet.primary.url, sa_readonly.tll",
    ),
    "no file": ({"sa_readonly.read_write.primary.url": "sqlite://"}, "sa_readonly.file is missing"),
    "no primary": (
        {"sa_readonly.file": "/tmp/x"},
        "sa_readonly.read_write.primary.url is missing",
    ),
    "a ttl that is no number": ({**BASE, "sa_readonly.ttl": "soon"}, "sa_readonly.ttl takes"),
    "a word that is none": (
        {**BASE, "sa_readonly.server_read_only": "flop"},
        'EngineSelector\\(server_read_only\\) takes "raise", "error" or "flip", not \'flop\'',
    ),
    "a file that is no path": ({**BASE, "sa_readonly.file": 5}, "sa_readonly.file takes the path"),
    "etcd without a key": ({**ETCD, "sa_readonly.key": ""}, "sa_readonly.key is missing"),
    "a key without a slash": ({**ETCD, "sa_readonly.key": "x"}, "begins with a slash"),
    "a key without etcd": (
        {**BASE, "sa_readonly.key": "/x"},
        "Unknown configuration: sa_readonly.key",
    ),
    "a driver that is not there": (
        {**BASE, "sa_readonly.read_write.primary.url": "oracle://x"},
        "No engine can be made of sa_readonly.read_write.primary.url: ModuleNotFoundError: No",
    ),
    "what is no class of pools": (
        {**BASE, "sa_readonly.read_write.primary.poolclass": False},
        "No engine can be made of sa_readonly.read_write.primary.poolclass, "
        "sa_readonly.read_write.primary.url: AttributeError: 'bool' object has",
    ),
    "a negative ttl": ({**BASE, "sa_readonly.ttl": "-1"}, "ttl takes a number of seconds"),
    "options without an url": (
        {**BASE, "sa_readonly.read_only.primary.pool_size": "3"},
        "sa_readonly.read_only.primary.url is missing",
    ),
    "a replica without a primary": (
        {**BASE, "sa_readonly.read_only.replica.url": "sqlite:////tmp/z"},
        "read_only.replica.url is given without sa_readonly.read_only.primary.url",
    ),
    "an unknown option of an engine": (
        {**BASE, "sa_readonly.read_write.primary.pool_sise": "3"},
        "pool_sise",
    ),
    "an URL that is none": (
        {**BASE, "sa_readonly.read_write.primary.url": "nonsense"},
        "No engine can be made of sa_readonly.read_write.primary.url",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_configuration_is_an_error_that_names_the_key(what: str) -> None:
    mapping, message = WRONG[what]
    with pytest.raises(ConfigurationError, match=message.replace(".", r"\.")):
        selector_from_config(mapping)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"sa_readonly.read_only.primary.url": ""},
            "sa_readonly.read_only.primary.url is empty. Give the URL of a database.",
        ),
        (
            {"sa_readonly.read_only.primary.pool_size": "5"},
            "sa_readonly.read_only.primary.url is missing, though "
            "sa_readonly.read_only.primary.pool_size is given. Give the URL of a database.",
        ),
        (
            {"sa_readonly.ttl": "-1"},
            "sa_readonly.ttl takes a number of seconds that is not negative, not -1.0.",
        ),
    ],
)
def test_what_is_wrong_in_a_configuration_is_named_as_it_is_there(
    lite: App, more: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        selector_from_config(
            {
                "sa_readonly.file": str(lite.path),
                "sa_readonly.read_write.primary.url": lite.urls["rw"],
                5: "another's",
                **more,
            }
        )
    assert str(caught.value) == message


def test_the_configuration_makes_one_on_etcd_beside_which_a_file_may_be(
    fleet: Fleet, lite: App
) -> None:
    keys = {
        "etcd": fleet.etcd.urls,
        "key": fleet.store.key,
        "ttl": "0.5",
        "file": str(lite.path),
        "read_write.primary.url": str(lite.urls["rw"]),
        "read_only.primary.url": str(lite.urls["ro"]),
    }
    with selector_from_config({f"sa_readonly.{key}": keys[key] for key in keys}) as selector:
        assert (selector.switch.name, selector.switch.ttl) == (fleet.store.key, 0.5)
        assert not selector.read_only
        lite.on()
        assert selector.check().reason == "upgrade"
