"""An engine's URL: whether the plugin that it names is in force."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from ...engines.single import of_engine
from ...etcd.switch import TRUST
from .. import probe
from .findings import Finding, danger, ok

_CURE = "Put plugin=sa_readonly and sa_readonly_file=/path/of/read-only.txt into its query."

_INSTEAD = {
    "Give --read-only, and read_only= to the selector": "Give sa_readonly_url",
    "the read-only URL": "sa_readonly_url",
    "as the read-only database": "as sa_readonly_url",
    "Give EngineSelector(": "Have the URL name the server itself, or make an EngineSelector(",
}


def examine_plugin(value: str) -> tuple[Finding, dict[str, Any]]:
    """Make an engine of a URL, which connects nothing, and tell whether it goes by the mode.

    :return: the finding, and what else may be examined, by the names of :func:`.examine`.
    :raises UnreachableError: if it is no URL, or its driver is missing.
    """
    url = probe.parse_url(value, "plugin's")
    plain = url.difference_update_query([*_ours(url), "plugin"])
    shown = probe.shown_url(plain)
    probe.dialect_of(plain)
    known: dict[str, Any] = {"read_write": plain.render_as_string(hide_password=False)}
    plugins = url.query.get("plugin", ())
    if "sa_readonly" not in ((plugins,) if isinstance(plugins, str) else plugins):
        names = ", ".join(_ours(url))
        ignored = f" SQLAlchemy ignores {names}, or hands it to the driver." if names else ""
        found = danger(
            "plugin-not-named",
            f"The URL of {shown} does not name the plugin.",
            f"An engine of it writes in either mode, and nothing counts it.{ignored}",
            _CURE,
        )
        return found, known
    try:
        single = of_engine(create_engine(url))
    except (SQLAlchemyError, TypeError) as error:
        found = danger(
            "plugin-refused",
            f"No engine can be made of the URL of {shown}.",
            f"A program with this URL does not start, or not with it: {error}",
            "Correct the URL.",
        )
        return found, known
    shared: Any = single and single.shared
    other = url.query.get("sa_readonly_url")
    known |= {
        "file": shared.path or shared.paths.get("file"),
        "read_only": other and make_url(str(other)).render_as_string(hide_password=False),
    }
    if shared.path is None:
        known["etcd"] = {name: url.query.get(f"sa_readonly_{name}") for name in ("etcd", "key")}
        known["etcd"] |= {name: shared.paths[name] for name in TRUST}
    if isinstance(shared.workers, str) and shared.workers != "required":
        known["workers"] = shared.workers
    found = ok(
        "plugin-in-force",
        f"The URL of {shown} names the plugin.",
        f"An engine of it gives out connections by the mode, which {shared.path or 'etcd'} tells.",
    )
    return found, known


def reworded(finding: Finding) -> Finding:
    """Return a finding whose cure speaks of what a URL has, and of no argument of a selector."""
    cure = finding.cure
    for words, instead in _INSTEAD.items():
        cure = cure.replace(words, instead)
    return replace(finding, cure=cure)


def _ours(url: URL) -> list[str]:
    return [name for name in url.query if name.startswith("sa_readonly_")]
