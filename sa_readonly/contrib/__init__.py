"""Classes for frameworks that make sessions and engines themselves. Each room needs its framework.

- ``flask_sqlalchemy``: an extension whose sessions are routed by bind key.
- ``celery``: tasks that come back when they were refused, and workers that pause.
- ``rq``: jobs that come back.
- ``pytest_plugin``: the fixtures of ``sa_readonly.testing``, which pytest finds by itself.
"""
