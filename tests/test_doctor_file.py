"""``sa-readonly doctor`` on the file, its directories and their file systems."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sa_readonly.command.doctor.file import (
    Mount,
    examine_environment,
    examine_file,
    examine_mount,
    mounts,
)
from sa_readonly.workers.directory import DirectoryRegistry
from tests.doctor import ROOT, dangers, has, nobody, place, the

__all__ = ["place"]  # a fixture


def test_a_directory_of_roots_is_in_order_for_the_applications_user(place: Path) -> None:
    if os.geteuid():
        pytest.skip("NOT TESTED: only root can make a directory that another user can't write")
    (place / "read-only.txt.workers").mkdir(mode=0o755)
    shutil.chown(place / "read-only.txt.workers", "nobody")
    with nobody():
        findings = [*examine_file(str(place / "read-only.txt"))]
    findings = [one for one in findings if "is on " not in one.what]  # wherever the tests run
    assert {one.severity for one in findings} == {"ok"}, findings
    assert has(findings, "can't change")
    assert the(examine_file(str(place / "read-only.txt")), "can be written by").severity == "note"


def test_an_application_that_can_flip_itself_is_a_note(place: Path) -> None:
    if not os.geteuid():
        shutil.chown(place, "nobody")
    with nobody():
        finding = the(examine_file(str(place / "read-only.txt")), "may make and remove the file")
    assert finding.severity == "note"


def test_a_directory_that_every_user_can_write_is_a_danger(place: Path) -> None:
    place.chmod(0o777)
    (place / "inner").mkdir()
    for path in (place / "read-only.txt", place / "inner" / "read-only.txt"):
        (danger,) = dangers(examine_file(str(path)))
        assert danger == f"Every user of this host may write in {place}."


def test_a_sticky_directory_is_a_warning(place: Path) -> None:
    place.chmod(0o1777)
    findings = [*examine_file(str(place / "read-only.txt"))]
    assert the(findings, "may make files").severity == "warning"
    assert dangers(findings) == []


def test_a_missing_directory_is_a_warning(tmp_path: Path) -> None:
    (finding,) = examine_file(str(tmp_path / "none" / "read-only.txt"))
    assert finding.severity == "warning"
    assert f"{tmp_path}/none" in finding.what


def test_the_mode_now_is_told(tmp_path: Path) -> None:
    path = tmp_path / "read-only.txt"
    assert the(examine_file(str(path)), "is not there.").severity == "ok"
    path.touch()
    assert the(examine_file(str(path)), "is there.").meaning == "The application is read-only now."
    path.unlink()
    path.symlink_to("nowhere")
    assert the(examine_file(str(path)), "is no regular file").severity == "warning"


def test_a_symlink_to_a_regular_file_is_in_order_as_in_a_config_map(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "read-only.txt").touch()
    (tmp_path / "read-only.txt").symlink_to("..data/read-only.txt")
    assert the(examine_file(str(tmp_path / "read-only.txt")), "is there.").severity == "note"


def test_a_symlink_as_workers_directory_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "read-only.txt.workers").symlink_to("elsewhere")
    assert the(examine_file(str(tmp_path / "read-only.txt")), "is a symlink").severity == "warning"


def test_a_workers_directory_of_somebody_elses_is_a_warning(place: Path) -> None:
    workers = place / "read-only.txt.workers"
    workers.mkdir()
    if os.geteuid():
        workers.chmod(0o777)
    else:
        shutil.chown(workers, "daemon")
    with nobody():
        findings = [*examine_file(str(place / "read-only.txt"))]
    assert the(findings, "can be written by").severity == "warning"


def test_entries_for_which_wait_would_wait_without_end_are_a_warning(place: Path) -> None:
    file, workers = place / "read-only.txt", place / "read-only.txt.workers"
    workers.mkdir(mode=0o700)
    registry = DirectoryRegistry(workers)
    entry = registry.register(lambda: None)
    assert not has(examine_file(str(file)), "whether these workers live")
    names = [f"web1-{number}-{'0' * 12}-{'0' * 16}" for number in range(1, 5)]
    names.append("what somebody left")
    for name in names:  # as a container leaves them that was killed
        (workers / f"{name}.lock").touch()
    finding = the(examine_file(str(file)), "whether these workers live")
    assert (finding.severity, finding.code) == ("warning", "workers-in-doubt")
    assert [name in finding.what for name in names] == [True] * 3 + [False] * 2
    assert finding.what.endswith("; and 2 more.")
    assert str(workers) in finding.cure
    for path in [path for name in names for path in workers.glob(f"{name}*")]:  # the cure
        path.unlink()
    assert not has(examine_file(str(file)), "whether these workers live")
    entry.close()


def test_a_workers_directory_elsewhere_is_examined(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir(mode=0o700)
    findings = [*examine_file(str(tmp_path / "read-only.txt"), str(tmp_path / "reports"))]
    assert the(findings, f"{tmp_path}/reports").severity == "ok"


def test_looking_at_the_file_changes_no_directory(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    examine_file(str(tmp_path / "read-only.txt"))
    assert tmp_path.stat().st_mtime_ns == before
    assert list(tmp_path.iterdir()) == []


def test_a_bind_mounted_file_is_a_warning(place: Path) -> None:
    for name in ("source", "read-only.txt"):
        (place / name).touch()
    code = (
        "from sa_readonly.command.doctor.file import examine_file;"
        f"print([one.what for one in examine_file('{place}/read-only.txt')])"
    )
    done = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c"),
            'mount --bind "$1/source" "$1/read-only.txt" && shift && exec "$@"',
            *("sh", str(place), sys.executable, "-c", code),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"NOT TESTED with a bind-mounted file: {done.stderr.strip()}")
    assert "is itself a mount" in done.stdout, done.stderr


def test_a_config_map_mounted_as_a_sub_path_is_a_warning() -> None:
    text = (
        "100 90 8:1 /var/lib/kubelet/pods/0a/volumes/kubernetes.io~configmap/switch/..2026_11_22_1/"
        "x /etc/my\\040app ro,relatime master:1 - ext4 /dev/sda1 rw\n"
        "90 1 0:40 / / rw,relatime - overlay overlay rw\n"
    )
    assert mounts(text)[0].place == "/etc/my app"
    (finding,) = examine_mount("/etc/my app/read-only.txt", mounts(text))
    assert finding.what == "/etc/my app is a subPath of a volume."


@pytest.mark.parametrize("kind", ["nfs4", "tmpfs", "overlay"])
def test_file_systems_that_cache_forget_or_are_not_shared_are_a_warning(kind: str) -> None:
    hidden = Mount("/", "/no/such", "ext4")
    known = [Mount("/", "/", "ext4"), hidden, Mount("/", "/no/such", kind)]
    (finding,) = examine_mount("/no/such/place/read-only.txt", known)
    assert finding.severity == "warning"
    assert finding.what.endswith(f"is on {kind}.")


@pytest.mark.parametrize(("kind", "warns"), [("nfs4", True), ("tmpfs", False), ("ext4", False)])
def test_a_file_at_the_top_of_what_a_server_may_not_have_mounted_is_a_warning(
    kind: str, warns: bool
) -> None:
    known = [Mount("/", "/", "ext4"), Mount("/", "/no/such", kind)]
    codes = {one.code for one in examine_mount("/no/such/read-only.txt", known)}
    assert ("directory-is-a-mount-point" in codes) is warns


def test_a_forced_mode_is_found() -> None:
    (danger,) = examine_environment({"SA_READONLY_FORCE": "read-write"})
    assert danger.severity == "danger"
    assert [*examine_environment({})] == []


def test_what_stands_where_the_history_and_the_announcement_belong_is_examined(place: Path) -> None:
    file = place / "read-only.txt"
    history, announced = (place / f"read-only.txt.{name}" for name in ("history", "announced"))
    examined = {"history-not-a-file", "history-writable", "announcement-not-read", "announced"}

    def found() -> dict[str, str]:
        return {one.code: one.what for one in examine_file(str(file)) if one.code in examined}

    assert found() == {}
    history.touch()
    if os.geteuid() == 0:  # else it can be written by the user that tests
        assert found() == {}
    history.chmod(0o666)
    assert found() == {"history-writable": f"{history} can be written by every user."}
    os.link(history, place / "second")
    assert found() == {"history-not-a-file": f"{history} is two names of a file."}
    history.unlink()
    history.symlink_to("other")
    assert found() == {"history-not-a-file": f"{history} is no regular file."}
    history.unlink()
    announced.write_text("from: tomorrow")
    assert found()["announcement-not-read"].endswith(
        "it begins with no line `from: <ISO 8601 time>`."
    )
    announced.write_text("from: 2999-01-01T00:00Z\nUpgrade\n")
    told = "read-only from 2999-01-01T00:00:00+00:00: Upgrade"
    assert found() == {"announced": f"It is announced: {told}."}
    announced.unlink()
    os.mkfifo(announced)
    assert found()["announcement-not-read"].endswith("it is no regular file.")
