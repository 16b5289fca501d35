"""Where etcd is, whom it trusts and whom it lets in, on a real etcd."""

from __future__ import annotations

import logging
import re
import shutil
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from sa_readonly.errors import ConfigurationError
from sa_readonly.etcd import login
from sa_readonly.etcd.client import Client
from sa_readonly.etcd.errors import Denied, EtcdError, Unreachable
from tests.etcd import Certificates, Etcd, Proxy
from tests.postgres import wait_until
from tests.test_forks import in_child

BOUND = 10  # seconds, for what takes none
SECRET = "streng-geheim"


# -- what is given ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"urls": ""}, "No URL of etcd is given. Give one such as https://etcd1:2379."),
        ({"urls": [" , "]}, "No URL of etcd is given. Give one such as https://etcd1:2379."),
        ({"urls": None}, "The URLs of etcd are a text or a list of such, not None."),
        (
            {"urls": "etcd1:2379"},
            "'etcd1:2379' is no URL of etcd. Give one such as https://etcd1:2379.",
        ),
        ({"urls": "ftp://a"}, "'ftp://a' is no URL of etcd. Give one such as https://etcd1:2379."),
        (
            {"urls": "http://a:99999"},
            "'http://a:99999' is no URL of etcd. Give one such as https://etcd1:2379.",
        ),
        (
            {"urls": "https://:2379"},
            "'https://:2379' is no URL of etcd. Give one such as https://etcd1:2379.",
        ),
        (
            {"urls": "http://a:2379/v3"},
            "'http://a:2379/v3' has more than a host and a port. "
            "Give one such as https://etcd1:2379.",
        ),
        (
            {"urls": f"https://me:{SECRET}@a:2379"},
            "An URL of etcd takes neither a user nor a password. Give user= and password=.",
        ),
        (
            {"urls": "https://a,http://b"},
            "The URLs of etcd mix http and https. Give all with https.",
        ),
        (
            {"urls": "http://a", "ca": "ca.pem"},
            "ca=, cert= and cert_key= are for https, and the URLs of etcd are of http.",
        ),
        (
            {"urls": "https://a", "ca": "/none/ca.pem"},
            "ca='/none/ca.pem' can't be read: No such file or directory.",
        ),
        (
            {"urls": "https://a", "cert_key": "/none/key.pem"},
            "cert_key= is given without cert=, the certificate with it.",
        ),
        (
            {"urls": "http://a", "user": "me"},
            "user= and password= of etcd are given together or not at all.",
        ),
        (
            {"urls": "http://a", "password": SECRET},
            "user= and password= of etcd are given together or not at all.",
        ),
        (
            {"urls": "http://a", "timeout": 0},
            "timeout= of etcd is 0 s, in which nothing is answered.",
        ),
        (
            {"urls": "http://a", "timeout": "5"},
            "timeout takes a number of seconds that is not negative, not '5'.",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(given: dict, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Client(**given)
    assert str(caught.value) == told


def test_urls_are_given_as_a_text_or_a_list_with_or_without_a_port() -> None:
    for urls in (
        "https://a, https://b:2379,https://[::1]:2380/,https://a:2379",
        ["https://a", "https://b,https://[::1]:2380"],
    ):
        assert repr(Client(urls)) == "<Client https://a:2379,https://b:2379,https://[::1]:2380>"


# -- TLS -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(etcd_server: Etcd, certificates: Certificates) -> Iterator[Etcd]:
    """An etcd that asks for client certificates; skipped where the other one is."""
    with Etcd(tls=certificates, client_certificates=True) as server:
        yield server


@pytest.fixture
def files(certificates: Certificates) -> dict[str, str]:
    return {"ca": certificates.ca, "cert": certificates.cert, "cert_key": certificates.key}


def test_server_and_client_show_each_other_certificates(
    secure: Etcd, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither a proxy nor other authorities are taken from the environment.
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "/none")
    with Proxy(secure.node.port) as proxy:
        with Client(f"https://127.0.0.1:{proxy.port}", **files) as client:
            for _ in range(3):
                client.put("/a", "1")
            assert client.get("/a").kv.text == "1"
        assert proxy.connected == 1
    with Client(secure.urls, **files) as client, client.watch("/a") as watch:
        assert watch.read(0) == ()
        client.put("/a", "2")
        assert watch.read(BOUND)[0].kv.text == "2"
    with Client(f"https://localhost:{secure.node.port}", **files) as client:
        assert client.get("/a").kv.text == "2"


def test_a_watch_over_tls_is_ended_from_another_thread(secure: Etcd, files: dict[str, str]) -> None:
    with Client(secure.urls, **files) as client:
        watch = client.watch("/a")
        watch.step = BOUND
        reader = threading.Thread(target=list, args=(watch,))
        reader.start()
        wait_until(watch._stream._reading().locked, "the reader", BOUND)
        began = time.monotonic()
        watch.close()
        reader.join(BOUND)
        assert time.monotonic() - began < BOUND / 2


def test_a_server_of_another_authority_is_not_believed(
    secure: Etcd, files: dict[str, str], tmp_path: Path
) -> None:
    other = Certificates(tmp_path)
    with (
        Client(secure.urls, **{**files, "ca": other.ca}) as client,
        pytest.raises(Unreachable, match="its certificate is not accepted: ") as caught,
    ):
        client.put("/a", "1")
    assert not caught.value.may_be_done


def test_a_server_of_another_name_is_not_believed(
    secure: Etcd, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = socket.getaddrinfo("127.0.0.1", secure.node.port, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: here)
    with (
        Client(f"https://etcd.example:{secure.node.port}", **files) as client,
        pytest.raises(Unreachable, match=r"not valid for 'etcd\.example'"),
    ):
        client.get("/a")


def test_a_client_without_a_certificate_is_turned_away(secure: Etcd, certificates) -> None:
    with Client(secure.urls, ca=certificates.ca) as client, pytest.raises(Unreachable):
        client.get("/a")


def test_a_certificate_that_is_renewed_on_the_disk_is_taken(
    secure: Etcd, files: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    other = Certificates(folder)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(other.cert, cert)
    shutil.copy(other.key, key)
    with Client(secure.urls, ca=files["ca"], cert=str(cert), cert_key=str(key)) as client:
        with pytest.raises(Unreachable):
            client.get("/a")
        shutil.copy(files["cert"], cert)  # and not its key, yet
        for _ in range(2):
            with pytest.raises(Unreachable):
                client.get("/a")
        (record,) = caplog.records
        assert record.getMessage().startswith("The certificates for etcd stay as they were: cert=")
        shutil.copy(files["cert_key"], key)
        client.get("/a")


def test_a_file_that_holds_no_certificate_is_refused(
    certificates: Certificates, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(ConfigurationError, match="is no certificate in PEM: "):
        Client("https://a", ca=str(empty))
    key = serialization.load_pem_private_key(Path(certificates.key).read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    with pytest.raises(ConfigurationError, match="without a passphrase: the key has a passphrase"):
        Client("https://a", cert=certificates.cert, cert_key=str(locked))


# -- users -----------------------------------------------------------------------------------


@pytest.fixture
def guarded(etcd: Etcd) -> Iterator[Etcd]:
    """The etcd of all tests, which asks for a user meanwhile: `worker` may read /a."""
    etcd.users(worker=(SECRET, [("READ", "/a", False)]))
    yield etcd
    etcd.no_users()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logins anew are spread over a moment."""
    monkeypatch.setattr(login, "SPREAD", 0.01)


def logins(etcd: Etcd) -> int:
    """How many requests to log in etcd has counted, good or bad."""
    _, text = etcd.node.request("GET", "/metrics")
    found = re.findall(rb'grpc_server_started_total{grpc_method="Authenticate".*} (\d+)', text)
    return sum(map(int, found))


def test_a_user_may_what_the_role_says(guarded: Etcd) -> None:
    with Client(guarded.urls, user="worker", password=SECRET) as client:
        assert client.get("/a").kv is None
        with pytest.raises(Denied) as caught:
            client.put("/a", "1")
        assert caught.value.code == 7
        with client.watch("/a") as watch:
            assert watch.read(0) == ()
        with pytest.raises(Denied) as caught:
            client.watch("/b")
        assert caught.value.code == 7
    assert logins(guarded)


def test_without_a_user_the_cure_is_told(guarded: Etcd) -> None:
    with Client(guarded.urls) as client, pytest.raises(Denied) as caught:
        client.get("/a")
    assert str(caught.value) == (
        f"etcd at {guarded.urls} answered with code 3: etcdserver: user name is empty. "
        "Give user= and password=."
    )


@pytest.mark.parametrize(("user", "password"), [("worker", "falsch"), ("me", SECRET)])
def test_a_wrong_password_is_told_and_not_tried_again_at_once(
    guarded: Etcd, user: str, password: str
) -> None:
    before = logins(guarded)
    with Client(guarded.urls, user=user, password=password) as client:
        for _ in range(3):
            with pytest.raises(Denied, match=f"etcd does not let the user '{user}' in: ") as caught:
                client.get("/a")
            assert password not in "".join(traceback.format_exception(caught.value))
    assert logins(guarded) == before + 1


def test_the_password_is_told_nowhere(guarded: Etcd, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Proxy(guarded.node.port) as proxy:
        client = Client(proxy.url, user="worker", password=SECRET)
        client.get("/a")
        proxy.flows.clear()
        with pytest.raises(Unreachable) as caught:
            client.get("/a", timeout=0.05)
        client.close()
    told = [repr(client), caplog.text, "".join(traceback.format_exception(caught.value))]
    assert SECRET not in "".join(told)


def test_a_process_logs_in_once_for_all_its_threads(guarded: Etcd) -> None:
    before = logins(guarded)
    with Client(guarded.urls, user="worker", password=SECRET) as client:
        threads = [threading.Thread(target=client.get, args=("/a",)) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
    assert logins(guarded) == before + 1


def test_a_token_that_has_expired_is_made_anew(guarded: Etcd) -> None:
    with Client(guarded.urls, user="worker", password=SECRET) as client:
        client.get("/a")
        for ask in (client.get, client.watch):
            before = logins(guarded)
            client._login._token = "expired.1"
            answer = ask("/a")
            assert logins(guarded) == before + 1
        answer.close()
        client._login.forget("expired.1")  # as a thread does that comes late with the old one
        client.get("/a")
        assert logins(guarded) == before + 1


def test_logins_anew_are_spread_and_the_first_one_is_not(
    guarded: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread: list[tuple[float, float]] = []
    monkeypatch.setattr(login, "SPREAD", 7.0)
    monkeypatch.setattr(login.random, "uniform", lambda *bounds: spread.append(bounds) or 0.0)
    with Client(guarded.urls, user="worker", password=SECRET) as client:
        client.get("/a")
        assert (0, 7.0) not in spread
        client._login._token = "expired.1"
        client.get("/a")
        assert (0, 7.0) in spread


def test_a_login_that_takes_longer_than_a_request_goes_on(guarded: Etcd) -> None:
    before = logins(guarded)
    with (
        Proxy(guarded.node.port) as proxy,
        Client(proxy.url, user="worker", password=SECRET) as client,
    ):
        proxy.answers.clear()
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(Unreachable, match="login to etcd is still under way") as caught:
                client.put("/a", "1", timeout=0.05)
            assert time.monotonic() - began < BOUND / 2
            assert not caught.value.may_be_done
        proxy.answers.set()
        assert client.get("/a").kv is None
    assert logins(guarded) == before + 1


def test_a_login_for_which_no_thread_can_be_started_is_tried_again(
    guarded: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Client(guarded.urls, user="worker", password=SECRET) as client:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(Unreachable, match="No login to etcd: can't start new thread"):
                client.get("/a")
        assert client.get("/a").kv is None


def test_users_are_introduced_and_given_up_while_clients_run(etcd: Etcd) -> None:
    with Client(etcd.urls, user="worker", password=SECRET) as client:
        client.put("/a", "1")
        etcd.users(worker=(SECRET, [("READ", "/a", False)]))
        try:
            assert client.get("/a").kv.text == "1"
            with pytest.raises(Denied):
                client.put("/a", "2")
        finally:
            etcd.no_users()
        client.put("/a", "2")


def test_a_forked_child_logs_in_itself(guarded: Etcd) -> None:
    with Client(guarded.urls, user="worker", password=SECRET) as client:
        client.get("/a")
        token = client._login._token

        def child() -> None:
            assert client._login._token is None
            client.get("/a")
            assert client._login._token != token
            client.close()

        in_child(child)
        before = logins(guarded)
        client.get("/a")
        assert logins(guarded) == before


def test_with_users_a_client_certificate_has_no_common_name(
    secure: Etcd, certificates: Certificates, files: dict[str, str]
) -> None:
    secure.users(worker=(SECRET, [("READ", "/a", False)]))
    try:
        with Client(secure.urls, **files, user="worker", password=SECRET) as client:
            client.get("/a")
        cert, key = certificates.issue("worker.example", common_name="worker")
        named = {**files, "cert": cert, "cert_key": key}
        with (
            Client(secure.urls, **named, user="worker", password=SECRET) as client,
            pytest.raises(EtcdError, match="answered 400: CommonName of client"),
        ):
            client.get("/a")
    finally:
        secure.no_users()
