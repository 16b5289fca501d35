"""Settings that gunicorn reads by itself where it is started: ``gunicorn app:app``."""

import os
import signal

bind = os.environ.get("GUESTBOOK_BIND", "127.0.0.1:8000")
workers = 4
preload_app = True


def post_worker_init(worker):
    # Not before: gunicorn sets a worker's signal handlers after the fork. Send both signals to the
    # workers, never to the master, which would start them anew on HUP, and a second master on USR2:
    # pkill -HUP -P "$(cat gunicorn.pid)"
    from app import log, selector  # by now it is there

    def rotate(number, frame):
        log.rotated = True

    signal.signal(signal.SIGHUP, rotate)
    selector.check_on_signal(signal.SIGUSR2)
