"""``sa-readonly doctor --plugin-url``: whether a URL is in force."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.by_url import nothing_lingers
from tests.doctor import run, sqlite_database
from tests.etcd_fleet import Fleet, bare

__all__ = ["bare", "nothing_lingers"]  # fixtures


@pytest.mark.parametrize(
    ("query", "code", "exit_code"),
    [
        ("plugin=sa_readonly&sa_readonly_file={0}/ro.txt&sa_readonly_url={1}", "in-force", 1),
        ("sa_readonly_file={0}/ro.txt", "not-named", 1),
        ("plugin=sa_readonly&sa_readonly_file={0}/none/ro.txt", "refused", 1),
        ("plugin=sa_readonly&sa_readonly_fil={0}/ro.txt", "refused", 1),
    ],
)
def test_a_url_tells_whether_the_plugin_is_in_force(
    tmp_path: Path, query: str, code: str, exit_code: int
) -> None:
    one, two = (sqlite_database(tmp_path / name) for name in ("one", "two"))
    found = run("--plugin-url", f"{one}?{query.format(tmp_path, two)}")
    assert f"[plugin-{code}]" in found.output
    assert found.exit_code == exit_code
    assert (f"{tmp_path}/two" in found.output) is (code == "in-force")
    assert (f"{tmp_path}/ro.txt is not there" in found.output) is (code == "in-force")


def test_a_cure_speaks_of_what_a_url_has(tmp_path: Path) -> None:
    url = sqlite_database(tmp_path / "one")
    found = run("--plugin-url", f"{url}?plugin=sa_readonly&sa_readonly_file={tmp_path}/ro.txt")
    assert "Give sa_readonly_url: a standby is the best." in found.output
    assert "For sa_readonly_url use a file" in found.output
    assert "--read-only" not in found.output


def test_the_etcd_of_a_url_is_examined(bare: Fleet, tmp_path: Path) -> None:
    url = sqlite_database(tmp_path / "one").update_query_dict(
        {
            "plugin": "sa_readonly",
            "sa_readonly_etcd": bare.etcd.urls,
            "sa_readonly_key": bare.store.key,
        }
    )
    found = run("--plugin-url", str(url))
    for code in ("plugin-in-force", "etcd-open-to-all", "etcd-no-marker"):
        assert f"[{code}]" in found.output


def test_a_url_tells_it_without_its_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/none.db?sa_readonly_file={tmp_path}/ro.txt"
    for query, code in (("", "not-named"), ("&plugin=sa_readonly", "in-force")):
        found = run("--plugin-url", url + query)
        assert f"[plugin-{code}]" in found.output
        assert "can't be examined" in found.output
        assert found.exit_code == 2
