"""Settings that gunicorn reads by itself where it is started: ``gunicorn app:app``."""

import os
import signal

bind = os.environ.get("GUESTBOOK_BIND", "127.0.0.1:8000")
workers = 4
preload_app = True


def post_fork(server, worker):
    if worker.cfg.worker_class_str == "gevent":
        # So that a greenlet that waits for the database lets the others go on.
        from psycogreen.gevent import patch_psycopg

        patch_psycopg()


def post_worker_init(worker):
    # Not before: gunicorn sets a worker's signal handlers after the fork. And not USR2 to the
    # master, for which it means another thing: kill -USR2 the workers.
    from app import selector  # by now it is there

    selector.check_on_signal(signal.SIGUSR2)
