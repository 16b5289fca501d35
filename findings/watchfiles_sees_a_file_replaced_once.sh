#!/usr/bin/env bash
# watchfiles: who watches a file sees its first replacement by a rename, and none of the later ones.
#
# Guess: watch("settings.toml") tells of each change of that name, however it is written: editors, deployment tools and
#     Kubernetes' mounted configuration all write another file and rename it over the name (or swap a link on the way).
# Truth: what is watched is the file that had the name at the start. The first rename ends it: one change comes, told as
#     "deleted" beside "modified", and then the loop waits on for ever, without an error. Of a file behind a link that is
#     swapped not even one comes. A watch of the directory sees each of them; so does watchdog's of the file.
# Versions: watchfiles 1.3.0, watchdog 7.1.0, Linux.
# Source: notify-rs/notify issue 165, of the Rust crate beneath: a watch of a file does not notice that it was replaced.
#     watchfiles' documentation takes "paths to watch" and has no word of it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check watchfiles==1.3.0 watchdog==7.1.0

venv/bin/python - <<'PY'
import importlib.metadata
import os
import pathlib
import threading
import time

import watchfiles
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("watchfiles", "watchdog")), sep=", ")


class Watch:
    """Counts the batches of changes that have to do with a name."""

    def __init__(self, path, name):
        self.batches = []
        self.stop = threading.Event()
        options = {"stop_event": self.stop, "debounce": 50, "step": 10, "rust_timeout": 100, "yield_on_timeout": True}
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(path, name, options))
        self.thread.start()
        self.ready.wait(20)

    def run(self, path, name, options):
        for batch in watchfiles.watch(path, **options):
            self.ready.set()
            seen = sorted(change.name for change, where in batch if pathlib.Path(where).name == name)
            if seen:
                self.batches.append(seen)

    def end(self):
        self.stop.set()
        self.thread.join()
        return self.batches


class Moved(FileSystemEventHandler):
    def __init__(self):
        self.seen = 0

    def on_moved(self, event):
        self.seen += event.dest_path.endswith("settings")


def replace(number):
    pathlib.Path("plain/new").write_text(str(number))
    os.replace("plain/new", "plain/settings")


def swap(number):
    os.mkdir(f"mount/{number}")
    pathlib.Path(f"mount/{number}/settings").write_text(str(number))
    os.symlink(str(number), "mount/new")
    os.replace("mount/new", "mount/data")


os.mkdir("plain")
os.mkdir("mount")
replace(0)
swap(0)
os.symlink("data/settings", "mount/settings")
handler, observer = Moved(), Observer()
observer.schedule(handler, "plain/settings")
observer.start()
watches = {
    "file": Watch("plain/settings", "settings"),
    "its directory": Watch("plain", "settings"),
    "file behind a link": Watch("mount/settings", "settings"),
    "the link's directory": Watch("mount", "data"),
}
for number in (1, 2, 3):
    replace(number)
    swap(number)
    time.sleep(1)  # so that each is a batch of its own; a watch that misses one gives nothing to wait for
seen = {name: watch.end() for name, watch in watches.items()}
observer.stop()
observer.join()
for name, batches in seen.items():
    print(f"{name}, replaced three times: {len(batches)} seen: {batches}")
print(f"watchdog, file: {handler.seen} seen")
if [len(batches) for batches in seen.values()] != [1, 3, 0, 3] or handler.seen != 3:
    raise SystemExit("it is no longer so")
PY
