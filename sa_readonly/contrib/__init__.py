"""Classes for frameworks that make sessions and engines themselves. Each room needs its framework.

- ``flask_sqlalchemy``: an extension whose sessions are routed by bind key.
"""
