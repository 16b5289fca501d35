"""The token that etcd gives for a user and a password."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from typing import TYPE_CHECKING

from ..forks import PerProcess
from ..mode import clock
from ..telemetry import fields
from .errors import INVALID, PRECONDITION, Denied, EtcdError, Unreachable

if TYPE_CHECKING:
    from .endpoints import Endpoints

__all__ = ["Login"]

logger = logging.getLogger("sa_readonly")

LIMIT = 60.0  # seconds for one login: etcd reckons each for a tenth of a second, one by one
SPREAD = 2.0  # seconds over which workers whose tokens ended together log in anew


class Login:
    """One login at a time in a process, in a thread of its own.

    A login costs etcd as much as hundreds of requests. One that was given up would have been
    reckoned all the same, and be asked for once more: so it goes on when those that wait for it
    have no time left, and the next request finds the token.

    :param user: a user of etcd.
    :param password: the user's password; it is told nowhere.
    """

    def __init__(self, endpoints: Endpoints, user: str, password: str) -> None:
        self._endpoints = endpoints
        self._user, self._password = user, password
        self._lock = PerProcess(threading.Lock)
        self.forked()

    def forked(self) -> None:
        """In a forked child: the token is another process's."""
        self._token: str | None = None  # "" where etcd asks for none
        self._done: threading.Event | None = None  # of the login that is under way
        self._error: EtcdError | None = None
        self._hold = 0.0  # when the next one may begin, after one that failed
        self._failed = 0
        self._renewed = False

    def token(self, deadline: float) -> str:
        """Return the token, which is empty where etcd asks for none.

        :raises EtcdError: if there is none by the deadline.
        """
        with self._lock():
            if self._token is not None:
                return self._token
            if self._done is None:
                if self._error is not None and clock() < self._hold:
                    raise self._error.with_traceback(None)  # which would grow each time
                self._done = self._begun()
            done = self._done
        if not done.wait(max(0.0, deadline - clock())):
            raise Unreachable("The login to etcd is still under way.", may_be_done=False)
        with self._lock():
            if self._token is not None:
                return self._token
            if self._error is not None:
                raise self._error.with_traceback(None)
        raise Unreachable("The login to etcd failed.", may_be_done=False)

    def forget(self, token: str) -> None:
        """Have the next request log in anew, if the token is still that one."""
        with self._lock():
            if self._token == token:
                self._token, self._renewed = None, True

    def _begun(self) -> threading.Event:
        done = threading.Event()
        try:
            threading.Thread(
                target=self._log_in, args=(done,), name="sa_readonly-etcd-login", daemon=True
            ).start()
        except RuntimeError as error:  # as at the end of the process
            raise Unreachable(f"No login to etcd: {error}.", may_be_done=False) from error
        return done

    def _log_in(self, done: threading.Event) -> None:
        token, failed = None, None
        try:
            if self._renewed:
                time.sleep(random.uniform(0, SPREAD))  # noqa: S311  # spreads them, no secret
            token = self._asked()
        except EtcdError as error:
            failed = error
        except BaseException:
            logger.exception("The login to etcd failed.", extra=fields("login_failed"))
        with self._lock():
            self._token, self._error, self._done = token, failed, None
            self._failed = self._failed + 1 if failed else 0
            # An etcd that has too much to do gets less, and one that refused is not asked at once.
            burdened = isinstance(failed, Denied) or getattr(failed, "may_be_done", False)
            pause = min(10.0, 0.5 * 2**self._failed) if burdened else 0.0
            self._hold = clock() + pause * random.uniform(0.5, 1)  # noqa: S311  # as above
        done.set()

    def _asked(self) -> str:
        try:
            answer = self._endpoints.ask(
                "/v3/auth/authenticate",
                json.dumps({"name": self._user, "password": self._password}).encode(),
                {},
                clock() + LIMIT,
            )
        except EtcdError as error:
            if error.code == PRECONDITION:  # authentication is not enabled
                return ""
            if error.code == INVALID:
                raise Denied(
                    f"etcd does not let the user {self._user!r} in: {error} "
                    "Check the user's name and password.",
                    code=INVALID,
                ) from None
            raise
        return str(answer.get("token", ""))
