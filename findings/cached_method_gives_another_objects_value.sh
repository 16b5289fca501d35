#!/usr/bin/env bash
# dogpile.cache, Flask-Caching, aiocache and cashews: a cached method gives one object the value of another one.
#
# Guess: a method that is cached is cached for each object apart, as it is with functools.lru_cache: the repository of one
#     tenant doesn't get the rows of another one.
# Truth: dogpile.cache leaves a first argument named self out of the key, so all objects share one value. Flask-Caching,
#     aiocache and cashews take repr() or str() of the object, which without a __repr__ of its own is its address. An object
#     that lives as long as a request, as repositories and services do, leaves its address to the next one, and with it
#     what was cached: the second tenant reads the first one's row. Two objects that are alive at once get their own, so a
#     test that compares two is green.
# Versions: dogpile.cache 1.5.0, Flask-Caching 2.5.1, aiocache 0.12.3, cashews 7.6.0, on CPython.
# Source: dogpile/cache/util.py, function_key_generator(); flask_caching/utils.py, whose documentation of memoize() names
#     repr(); aiocache/decorators.py, _key_from_args(); cashews/formatter.py.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check dogpile.cache==1.5.0 Flask-Caching==2.5.1 aiocache==0.12.3 cashews==7.6.0

venv/bin/python - <<'PY'
import asyncio
import functools
import importlib.metadata
import platform

import aiocache
import cashews
import dogpile.cache
import flask
import flask_caching

packages = ("dogpile.cache", "Flask-Caching", "aiocache", "cashews")
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages), f"Python {platform.python_version()}")
ROWS = {tenant: f"row of tenant {tenant}" for tenant in range(20)}
region = dogpile.cache.make_region().configure("dogpile.cache.memory")
app = flask.Flask(__name__)
flask_cache = flask_caching.Cache(app, config={"CACHE_TYPE": "SimpleCache"})
cashews.cache.setup("mem://")


class Repository:
    """The rows of one tenant."""

    def __init__(self, tenant):
        self.tenant = tenant

    @functools.lru_cache
    def with_lru_cache(self, id):
        return ROWS[self.tenant]

    @region.cache_on_arguments()
    def with_dogpile_cache(self, id):
        return ROWS[self.tenant]

    @flask_cache.memoize()
    def with_flask_caching(self, id):
        return ROWS[self.tenant]

    @aiocache.cached()
    async def with_aiocache(self, id):
        return ROWS[self.tenant]

    @cashews.cache(ttl="1h")
    async def with_cashews(self, id):
        return ROWS[self.tenant]


async def read(repository, way, id):
    value = getattr(repository, way)(id)
    return await value if asyncio.iscoroutine(value) else value


async def request(tenant, way):
    """A request makes its own repository, as one does."""
    return await read(Repository(tenant), way, 1)


async def main():
    seen = {}
    for way in [name for name in vars(Repository) if name.startswith("with_")]:
        wrong = 0
        for tenant, row in ROWS.items():
            wrong += await request(tenant, way) != row
        both = [Repository(0), Repository(1)]
        at_once = [await read(each, way, 2) for each in both] == [ROWS[0], ROWS[1]]
        seen[way] = (wrong > 0, at_once)
        print(f"{way}: {wrong} of {len(ROWS)} tenants get another's row; two objects at once get their own: {at_once}")
    return seen


with app.app_context():
    seen = asyncio.run(main())
if list(seen.values()) != [(False, True), (True, False), (True, True), (True, True), (True, True)]:
    raise SystemExit("it is no longer so")
PY
