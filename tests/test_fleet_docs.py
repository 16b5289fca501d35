"""The manifests and the play that docs/ shows are whole, and what the application does is run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import click
import pytest

from sa_readonly import Mode
from sa_readonly.cli import main
from tests.etcd import programs
from tests.postgres import ServerUnavailableError

DOCS = Path(__file__).parent.parent / "docs"
KUBERNETES, ANSIBLE = ((DOCS / f"{name}.md").read_text() for name in ("kubernetes", "ansible"))
BEFORE, _, ON_ETCD = KUBERNETES.partition("\n## A fleet on etcd\n")
ON_ETCD, _, AFTER = ON_ETCD.partition("\n## ")
KUBERNETES = BEFORE + AFTER  # by a file


def documents(text: str) -> list[Any]:
    """Each YAML document; a key that is there twice is an error."""
    try:
        import yaml  # noqa: PLC0415  # it may be missing
    except ModuleNotFoundError:
        pytest.skip("NOT TESTED: PyYAML is not installed. Cure: pip install PyYAML.")

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
            assert len(set(keys)) == len(keys), keys
            assert all(isinstance(key, str) for key in keys), keys
            return super().construct_mapping(node, deep=deep)

    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return [found for block in blocks for found in yaml.load_all(block, Loader)]


def parse(name: str, arguments: list[str]) -> dict[str, Any]:
    """What the command takes from its arguments; it refuses what it does not take."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command.make_context(name, arguments).params


@pytest.mark.parametrize(
    "text", [KUBERNETES, ON_ETCD, ANSIBLE], ids=["kubernetes", "etcd", "ansible"]
)
def test_the_commands_that_are_shown_are_some(text: str) -> None:
    shown = re.findall(r"^\$ (.*)$", text, re.MULTILINE)
    assert len(shown) >= 2
    for line in shown:
        word, *arguments = shlex.split(line, comments=True)
        if arguments[:2] == ["exec", "deploy/shop-ops"]:
            word, *arguments = arguments[3:]
        assert word in ("kubectl", "ansible-playbook", "sa-readonly")
        if word == "sa-readonly":
            parse(arguments[0], arguments[1:])


def test_each_row_of_the_table_of_faults_is_a_test() -> None:
    section = (DOCS / "fleet.md").read_text().partition("\n## Three members under faults\n")[2]
    table = section.partition("\n| ---")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ", table, re.MULTILINE)
    tests = Path(__file__).with_name("test_etcd_cluster.py").read_text()
    assert len(rows) == len(re.findall(r"^def test_", tests, re.MULTILINE)) == 9


# -- Kubernetes ------------------------------------------------------------------------------


def test_the_manifests_fit_together() -> None:
    deployment, service, job = documents(KUBERNETES)
    kinds = {("apps/v1", "Deployment"), ("v1", "Service"), ("batch/v1", "Job")}
    assert {(one["apiVersion"], one["kind"]) for one in (deployment, service, job)} == kinds
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    pod = template["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounts) == set(volumes)
    assert not any("subPath" in mount for mount in mounts.values())
    assert volumes["switch"]["configMap"]["optional"] is True
    assert volumes["workers"] == {"name": "workers", "emptyDir": {}}
    env = {one["name"]: one["value"] for one in container["env"]}
    assert os.path.dirname(env["SA_READONLY_FILE"]) == mounts["switch"]["mountPath"]
    assert os.path.dirname(env["SA_READONLY_WORKERS"]) == mounts["workers"]["mountPath"]
    assert "/-/read-only" not in container["readinessProbe"]["httpGet"]["path"]
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == container["ports"][0]["name"]
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == (
        "None",
        True,
    )
    created = f"create configmap {volumes['switch']['configMap']['name']} --from-literal="
    assert created + os.path.basename(env["SA_READONLY_FILE"]) in KUBERNETES


def test_the_job_waits_for_what_the_deployment_has() -> None:
    deployment, service, job = documents(KUBERNETES)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    word, name, *arguments = container["command"]
    assert word == "sa-readonly"
    asked = parse(name, arguments)
    name, port = service["metadata"]["name"], service["spec"]["ports"][0]["port"]
    assert asked["url"] == f"http://{name}:{port}/-/read-only"
    assert asked["all_addresses"] is True
    replicas = deployment["spec"]["replicas"]
    server = deployment["spec"]["template"]["spec"]["containers"][0]["command"]
    workers = int(server[server.index("--workers") + 1])
    assert (asked["expect_hosts"], asked["expect"]) == (replicas, replicas * workers)


def test_the_application_turns_with_the_links_of_a_configmap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", KUBERNETES, re.DOTALL)
    switch, mount = tmp_path / "switch", tmp_path / "run"
    for directory in (switch, mount):
        directory.mkdir()
        directory.chmod(0o777)  # as the kubelet makes an emptyDir
    for name in ("rw", "ro"):
        monkeypatch.setenv(f"SHOP_{name.upper()}_URL", f"sqlite:///{tmp_path}/{name}.db")
    monkeypatch.setenv("SA_READONLY_FILE", str(switch / "read-only.txt"))
    monkeypatch.setenv("SA_READONLY_WORKERS", str(mount / "workers"))
    names: dict[str, Any] = {"application": None}
    exec(block, names)  # our own text

    def page() -> Any:
        environ = {"PATH_INFO": "/-/read-only", "HTTP_ACCEPT": "application/json"}
        setup_testing_defaults(environ)
        return json.loads(b"".join(names["application"](environ, lambda *_: None)))

    try:
        assert (page()["mode"], page()["registered"]) == ("read-write", True)
        # in the order in which the kubelet does it
        (switch / "..data").symlink_to("..one")
        (switch / "..one").mkdir()
        project(switch, "..two", "Upgrade to PostgreSQL 18")
        told = page()
        assert (told["mode"], told["reason"]) == ("read-only", "Upgrade to PostgreSQL 18")
        assert told["sums"]["drained"] == 1
        first = told["generation"]
        project(switch, "..three", "It takes longer")
        told = page()
        assert (told["mode"], told["reason"]) == ("read-only", "It takes longer")
        assert told["generation"] != first
        (switch / "..four").mkdir()
        swap(switch, "..four")
        assert page()["mode"] == "read-only"  # the link dangles
        (switch / "read-only.txt").unlink()
        assert names["selector"].check().mode is Mode.READ_WRITE
    finally:
        names["selector"].close()


def project(volume: Path, directory: str, text: str) -> None:
    """Write a file as a ConfigMap's volume does: the link first, then the swap."""
    (volume / directory).mkdir()
    (volume / directory / "read-only.txt").write_text(text)
    if not (volume / "read-only.txt").is_symlink():
        (volume / "read-only.txt").symlink_to("..data/read-only.txt")
    swap(volume, directory)


def swap(volume: Path, directory: str) -> None:
    (volume / "..data_tmp").symlink_to(directory)
    (volume / "..data_tmp").rename(volume / "..data")


# -- Kubernetes and etcd ---------------------------------------------------------------------


def members() -> dict[str, Any]:
    """The manifests of etcd, by their kinds."""
    return {one["kind"]: one for one in documents(ON_ETCD) if "etcd" in one["metadata"]["name"]}


def flags(container: Any) -> dict[str, str]:
    return dict(flag.removeprefix("--").partition("=")[::2] for flag in container["command"][1:])


def test_the_members_find_each_other_and_keep_what_they_know() -> None:
    found = members()
    assert set(found) == {"StatefulSet", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    assert {one["metadata"]["name"] for one in found.values()} == {"shop-etcd"}
    spec, service = found["StatefulSet"]["spec"], found["Service"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    given = flags(container)
    names = [f"shop-etcd-{number}" for number in range(spec["replicas"])]
    there = dict(pair.partition("=")[::2] for pair in given["initial-cluster"].split(","))
    assert there == {name: f"https://{name}.{spec['serviceName']}:2380" for name in names}
    assert given["initial-advertise-peer-urls"] == "https://$(NAME).shop-etcd:2380"
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert {one["name"]: one["port"] for one in service["ports"]}.items() <= ports.items()
    for name, port in (("client", "2379"), ("peer", "2380"), ("metrics", "2381")):
        (listened,) = [url for flag, url in given.items() if flag == f"listen-{name}-urls"]
        assert listened.endswith(f":{port}")
        assert listened.startswith("http:" if name == "metrics" else "https:")
        assert ports[name] == int(port)
    assert given["auto-compaction-retention"]
    assert "peer-client-cert-auth" in given
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    assert mounts["/tls"] == spec["template"]["spec"]["volumes"][0]["name"]
    assert mounts["/data"] == spec["volumeClaimTemplates"][0]["metadata"]["name"]
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def test_etcd_knows_each_flag_of_the_manifest() -> None:
    try:
        place = programs()
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    told = subprocess.run([place / "etcd", "--help"], capture_output=True, text=True, check=True)
    known = set(re.findall(r"^\s+--([\w-]+)", told.stdout + told.stderr, re.MULTILINE))
    (container,) = members()["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert set(flags(container)) <= known


def test_the_pods_reach_etcd_and_nothing_else_does() -> None:
    found = members()
    statefulset, policy = found["StatefulSet"]["spec"], found["NetworkPolicy"]["spec"]
    etcd_labels = statefulset["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == etcd_labels
    clients, peers = policy["ingress"]
    assert [port["port"] for port in clients["ports"]] == [2379]
    assert peers["from"] == [{"podSelector": {"matchLabels": etcd_labels}}]
    (wanted,) = clients["from"]
    label = wanted["podSelector"]["matchLabels"].items()
    urls = ",".join(f"https://shop-etcd-{number}.shop-etcd:2379" for number in range(3))
    deployments = [one for one in documents(ON_ETCD) if one["kind"] == "Deployment"]
    assert [one["metadata"]["name"] for one in deployments] == ["shop", "shop-ops"]
    for one in deployments:
        template = one["spec"]["template"]
        assert label <= template["metadata"]["labels"].items()
        assert template["spec"]["automountServiceAccountToken"] is False
        (container,) = template["spec"]["containers"]
        env = {pair["name"]: pair["value"] for pair in container["env"]}
        assert urls in (env.get("SHOP_ETCD"), env.get("SA_READONLY_ETCD"))
        (volume,) = template["spec"]["volumes"]
        (item,) = volume["secret"]["items"]  # the key of the server stays with it
        assert item == {"key": "ca.crt", "path": "etcd-ca.pem"}
        assert container["volumeMounts"][0]["mountPath"] == "/etc/shop"
    (call,) = re.findall(r"```python\nswitch = EtcdSwitch\((.*?)\n\)\n```", ON_ETCD, re.DOTALL)
    assert 'os.environ["SHOP_ETCD"]' in call
    assert f'key="{env["SA_READONLY_KEY"]}"' in call
    assert f'ca="{env["SA_READONLY_ETCD_CA"]}"' in call


def test_the_night_in_kubernetes_waits_for_what_the_deployment_has() -> None:
    (shop,) = [one for one in documents(ON_ETCD) if one["metadata"]["name"] == "shop"]
    (container,) = shop["spec"]["template"]["spec"]["containers"]
    pods = shop["spec"]["replicas"]
    workers = pods * int(container["command"][container["command"].index("--workers") + 1])
    (line,) = re.findall(r"-- sa-readonly wait (.*)", ON_ETCD)
    asked = parse("wait", shlex.split(line))
    assert (asked["expect"], asked["expect_hosts"]) == (workers, pods)
    (back,) = re.findall(r"-- sa-readonly off (.*)", ON_ETCD)
    assert parse("off", shlex.split(back))["expect"] == workers


# -- Ansible ---------------------------------------------------------------------------------


def commands(play: Any) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The name of each command of a play, what it takes, and its task."""
    known = {**play.get("vars", {}), "ansible_play_hosts_all | length": 20}
    found = []
    for task in play["tasks"]:
        if "ansible.builtin.command" in task:
            argv = [
                re.sub(r"{{ (.*?) }}", lambda match: str(known[match[1]]), argument)
                for argument in task["ansible.builtin.command"]["argv"]
            ]
            assert os.path.basename(argv[0]) == "sa-readonly"
            found.append((argv[1], parse(argv[1], argv[2:]), task))
    return found


def test_the_play_turns_all_hosts_and_waits_for_them() -> None:
    ((play,), _) = documents(ANSIBLE)
    (on, created, _), (off, removed, _), (wait, waited, task) = commands(play)
    assert (on, off, wait) == ("on", "off", "wait")
    assert created["file"] == removed["file"] == play["vars"]["file"]
    assert created["as_json"] is removed["as_json"] is True  # which tells what has changed
    assert waited["url"] == "https://{host}/-/read-only"
    assert (waited["hosts"], waited["expect_hosts"], waited["timeout"]) == ("-", 20, 120)
    assert task["ansible.builtin.command"]["stdin"] == "{{ ansible_play_hosts_all | join('\n') }}"
    assert (task["delegate_to"], task["run_once"]) == ("localhost", True)
    assert play["any_errors_fatal"] is True


def test_each_host_may_wait_for_itself() -> None:
    (_, (play,)) = documents(ANSIBLE)
    ((name, taken, _),) = commands(play)
    assert (name, taken["wait"], taken["expect"]) == ("on", True, 8)


def test_what_the_play_asks_of_the_json_is_there(tmp_path: Path) -> None:
    ((play,), _) = documents(ANSIBLE)
    asked = {task["changed_when"] for _, _, task in commands(play)} - {False}
    assert asked == {f"({name}.stdout | from_json).changed" for name in ("created", "removed")}
    from click.testing import CliRunner  # noqa: PLC0415

    done = CliRunner().invoke(main, ["on", "--file", str(tmp_path / "x"), "--json"])
    assert json.loads(done.stdout)["changed"] is True
