"""`sa-readonly doctor` on a fleet on etcd."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sa_readonly.command.doctor import Finding
from sa_readonly.command.doctor.etcd import examine_etcd
from sa_readonly.command.options import Where
from sa_readonly.command.probe import UnreachableError
from sa_readonly.workers import process
from tests.app import once
from tests.etcd import Certificates, Etcd, certificates, free_ports, programs
from tests.etcd_fleet import Fleet, bare, fleet
from tests.postgres import memory_or_disk, wait_until
from tests.test_etcd_command import command

__all__ = ["bare", "fleet"]  # fixtures


def look(fleet: Fleet, **given: str) -> list[Finding]:
    options = {"etcd": fleet.etcd.urls, "key": fleet.store.key, **given}
    ttl = float(options.pop("ttl", "1"))
    return list(examine_etcd(Where(**options), ttl))


def codes(findings: list[Finding]) -> dict[str, str]:
    return {one.code: one.severity for one in findings}


def test_an_etcd_that_all_may_write_is_a_danger_and_the_marker_is_looked_for(bare: Fleet) -> None:
    before = bare.client.get("/").revision
    found = codes(look(bare))
    assert found["etcd-open-to-all"] == "danger"
    assert found["etcd-without-tls"] == found["etcd-no-marker"] == "warning"
    assert found["etcd-one-url"] == "note"
    assert found["etcd-members-serve"] == "ok"
    bare.init(5.0)
    assert codes(look(bare))["etcd-marker-there"] == "ok"
    assert codes(look(bare, ttl="2"))["etcd-fence-too-short"] == "warning"
    bare.on()
    assert codes(look(bare))["etcd-key-there"] == "note"
    assert bare.client.get("/").revision == before + 2  # the doctor wrote nothing
    bare.etcd.compact(bare.client.get("/").revision)
    assert codes(look(bare))["etcd-was-compacted"] == "ok"
    with bare.etcd.full():
        found = codes(look(bare))
        assert found["etcd-alarm"] == found["etcd-member-can-not-serve"] == "warning"


def test_each_right_of_a_worker_and_of_an_operator_is_tried_and_nothing_is_written(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = fleet.store
    reads = [("READ", store.key, False), ("READ", store.marker, False)]
    own = ("READWRITE", f"{store.workers}{{}}-{process.host()}-", True)
    flips = [("READWRITE", store.key, False), ("READWRITE", store.marker, False)]
    all_entries = ("READ", store.workers, True)
    tells = ("READ", store.announced, False)
    keeps = [("READWRITE", store.announced, False), ("READWRITE", store.history, True)]
    fleet.etcd.users(
        shop=("x", [*reads, (own[0], own[1].format("shop"), True)]),
        page=("x", [*reads, (own[0], own[1].format("page"), True), all_entries, tells]),
        less=("x", reads),
        forger=("x", [*reads, ("READWRITE", store.workers, True), *keeps]),
        ops=("x", [*flips, ("READWRITE", store.workers, True), *keeps]),
        older=("x", [*flips, ("READWRITE", store.workers, True)]),
        half=("x", flips[:1]),
    )
    try:
        monkeypatch.setenv("SA_READONLY_ETCD_PASSWORD", "x")
        names = ("shop", "page", "less", "forger", "ops", "older")
        found = {name: look(fleet, user=name) for name in names}
        told = {
            name: {code for code in codes(findings) if "right" in code or code in RIGHTS}
            for name, findings in found.items()
        }
        assert told == {
            "shop": {"etcd-page-tells-nothing", "etcd-announcement-not-read"},
            "page": {"etcd-rights-in-order"},
            "less": {
                *("etcd-worker-rights-missing", "etcd-page-tells-nothing"),
                "etcd-announcement-not-read",
            },
            "forger": {
                *("etcd-entries-of-others", "etcd-history-of-others", "etcd-rights-in-order")
            },
            "ops": {"etcd-user-can-flip"},
            "older": {"etcd-user-can-flip", "etcd-operator-rights-missing"},
        }
        (missing,) = [one for one in found["less"] if one.code == "etcd-worker-rights-missing"]
        granted = own[1].format("less")
        assert missing.cure == (
            f"etcdctl role grant-permission worker --prefix=true readwrite {granted}"
        )
        with pytest.raises(UnreachableError, match="permission denied"):
            look(fleet, user="half")
        result = command(
            fleet, "doctor", SA_READONLY_ETCD_USER="ops", SA_READONLY_ETCD_PASSWORD="y"
        )
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Check the user's name and password" in result.stderr
        result = command(
            fleet, "doctor", SA_READONLY_ETCD_USER="ops", SA_READONLY_ETCD_PASSWORD="x"
        )
        assert (result.exit_code, result.stdout.splitlines()[-1][:12]) == (0, "No way was f")
    finally:
        fleet.etcd.no_users()


RIGHTS = {
    *("etcd-user-can-flip", "etcd-entries-of-others", "etcd-page-tells-nothing"),
    *("etcd-history-of-others", "etcd-announcement-not-read"),
}


def without_client_usage(made: Certificates) -> tuple[str, str]:
    """A certificate of the same authority whose only usage is that of a server."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415

    cert, key = made.issue("127.0.0.1")
    whole = x509.load_pem_x509_certificate(Path(cert).read_bytes())
    signer = serialization.load_pem_private_key(
        made._authority.private_key_pem.bytes(), password=None
    )
    builder = x509.CertificateBuilder(
        issuer_name=whole.issuer,
        subject_name=whole.subject,
        public_key=whole.public_key(),
        serial_number=whole.serial_number,
        not_valid_before=whole.not_valid_before_utc,
        not_valid_after=whole.not_valid_after_utc,
    )
    usage = x509.oid.ExtendedKeyUsageOID
    for one in whole.extensions:
        value = one.value
        if isinstance(value, x509.ExtendedKeyUsage):
            value = x509.ExtendedKeyUsage([usage.SERVER_AUTH])
        builder = builder.add_extension(value, one.critical)
    signed = builder.sign(signer, hashes.SHA256())
    Path(cert).write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return cert, key


@once
def test_a_servers_certificate_that_is_good_for_no_client_is_named() -> None:
    pytest.importorskip("trustme")
    with certificates() as made:
        client = made.issue("client.invalid")
        cert, key = without_client_usage(made)
        # Its own health is asked for by the gateway, too, so that this etcd never seems ready.
        with serving(cert, key, made.ca) as url:
            where = Where(etcd=url, key="/x", ca=made.ca, cert=client[0], cert_key=client[1])
            (found,) = examine_etcd(where)
    assert found.code == "etcd-certificate-lacks-client-usage"
    assert url.removeprefix("https://") in found.what


@contextlib.contextmanager
def serving(cert: str, key: str, ca: str) -> Iterator[str]:
    """An etcd with --client-cert-auth whose gateway can't ask its own server."""
    (port, peer) = free_ports(2)
    url, peers = f"https://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    with tempfile.TemporaryDirectory(dir=memory_or_disk()) as folder:
        command = [
            *(str(programs() / "etcd"), "--data-dir", folder, "--log-level", "error"),
            *("--listen-client-urls", url, "--advertise-client-urls", url),
            *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
            *("--initial-cluster", f"default={peers}", "--cert-file", cert, "--key-file", key),
            *("--client-cert-auth", "--trusted-ca-file", ca),
        ]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        process = subprocess.Popen(
            command, env=kept, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: _listens(port), "etcd listens", 30.0)
            yield url
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_certificates_that_etcds_gateway_refuses_are_named() -> None:
    pytest.importorskip("trustme")
    with certificates() as made, Etcd(tls=made, client_certificates=True) as etcd:
        named = made.issue("client.invalid", common_name="shop")
        nameless = made.issue("client.invalid")
        urls = {"etcd": etcd.urls, "key": "/tls/mode", "ca": made.ca}
        given = {**urls, "cert": nameless[0], "cert_key": nameless[1]}
        found = codes(list(examine_etcd(Where(**given))))
        assert found["etcd-without-users"] == "warning"
        assert "etcd-open-to-all" not in found
        etcd.ask("/v3/auth/user/add", {"name": "root", "password": "root"})
        etcd.ask("/v3/auth/role/add", {"name": "root"})
        etcd.ask("/v3/auth/user/grant", {"user": "root", "role": "root"})
        etcd.ask("/v3/auth/enable", {})
        given = {**urls, "cert": named[0], "cert_key": named[1]}
        found = codes(list(examine_etcd(Where(**given))))
        assert found == {"etcd-client-certificate-has-name": "warning"}
