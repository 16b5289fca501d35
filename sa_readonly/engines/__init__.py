"""The engines: what guards them, reads their statements and retires their pools.

The rooms from top to bottom; each imports only rooms that stand below it.

- ``single``: an engine by URL. ``handover``: the way in, and the gate that a flip turns.
- ``doors``: what a read-write engine's pool asks, and how it is shut. ``retired``: its old pools.
- ``readers``: the pools of read-only engines, and twins.
- ``pools``: pools that count.
- ``protection``: which class an engine's dialect has now.
- ``kinds``: the dialect of an engine by URL.
- ``grace``: statements that are judged one by one. ``guard``: what refuses, in the dialect.
- ``cursors``: the drivers' own cursors. ``statements``: what a text would do.
- ``locks``: at the server. ``sqlite``: the same there.
- ``poolers``, ``shared``: poolers before a server, and other pools behind a creator.
- ``loops``: event loops.
- ``dialects``: what a dialect can do. ``privates``: SQLAlchemy's private names.
"""
