"""What must be true once the cloud is quiet again. Each check raises AssertionError with what it found."""
import subprocess
import time

from cloud import Unknown

LIST = {
    "server": ("compute", "/servers/detail"),
    "keypair": ("compute", "/os-keypairs"),
    "network": ("network", "/networks"),
    "subnet": ("network", "/subnets"),
    "port": ("network", "/ports"),
    "router": ("network", "/routers"),
    "floatingip": ("network", "/floatingips"),
    "security-group": ("network", "/security-groups"),
    "security-group-rule": ("network", "/security-group-rules"),
    "image": ("image", "/images?limit=1000"),
    "volume": ("block-storage", "/volumes/detail"),
    "snapshot": ("block-storage", "/snapshots/detail"),
}
FINAL = {"ACTIVE", "SHUTOFF", "PAUSED", "SUSPENDED"}
FINAL_VOLUME = {"available", "in-use"}


def listed(cloud, kind):
    """{id: resource} of everything of a kind."""
    service, path = LIST[kind]
    body = cloud.ask(service, path)
    rows = next(value for key, value in body.items() if isinstance(value, list) and not key.endswith("_links"))
    if kind == "keypair":
        return {row["keypair"]["name"]: row["keypair"] for row in rows}
    return {row["id"]: row for row in rows}


def wait_for_quiet(cloud, seconds=90):
    """Until no server is on its way to another state and the host runs exactly the active ones."""
    deadline = time.monotonic() + seconds
    while True:
        servers = listed(cloud, "server")
        busy = {id: (s["status"], s["OS-EXT-STS:task_state"]) for id, s in servers.items()
                if s["OS-EXT-STS:task_state"] or s["status"] not in FINAL | {"ERROR"}}
        volumes = {v["id"]: v["status"] for v in listed(cloud, "volume").values() if v["status"] not in FINAL_VOLUME}
        volumes |= {s["id"]: s["status"] for s in listed(cloud, "snapshot").values() if s["status"] != "available"}
        images = [i for i in listed(cloud, "image").values() if i["status"] in ("saving", "importing")]
        active = {id for id, s in servers.items() if s["status"] in ("ACTIVE", "PAUSED")}
        running = set(cloud.guests())
        if not busy and not images and not volumes and active == running:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not quiet after {seconds} s: servers {busy}, images {[i['id'] for i in images]}, volumes {volumes}, "
                                 f"active but not running {active - running}, running but not active {running - active}")
        time.sleep(0.2)


def promises(cloud, clients):
    """Every 2xx answer is still true."""
    found = {kind: listed(cloud, kind) for kind in LIST}
    wrong = []
    for thing in (thing for client in clients for thing in client.things):
        row = found[thing.kind].get(thing.id)
        if (row is None) not in thing.gone:
            wrong.append(f"{thing.kind} {thing.id} is {'gone' if row is None else 'there'}, promised was the contrary ({thing.may})")
        elif row is not None:
            for key, may in thing.may.items():
                value = sum(len(a) for a in row["addresses"].values()) if key == "nics" else row.get(key)
                if value not in may:
                    fault = f"; fault: {row['fault'].get('message')}" if row.get("fault") else ""
                    wrong.append(f"{thing.kind} {thing.id}: {key} is {value!r}, right were {may}{fault}")
    assert not wrong, "\n".join(wrong)


def allocations_match_servers(cloud):
    flavors = {f["id"]: f for f in cloud.ask("compute", "/flavors/detail?is_public=None")["flavors"]}
    servers = listed(cloud, "server")
    wanted = {}
    for id, server in servers.items():
        flavor = flavors[server["flavor"]["id"]]
        wanted[id] = {"VCPU": flavor["vcpus"], "MEMORY_MB": flavor["ram"], "DISK_GB": flavor["disk"]}
    held = {}
    for provider in cloud.ask("placement", "/resource_providers")["resource_providers"]:
        for consumer, allocation in cloud.ask("placement", f"/resource_providers/{provider['uuid']}/allocations")["allocations"].items():
            assert consumer not in held, f"server {consumer} holds allocations on two hosts"
            held[consumer] = allocation["resources"]
    for id, server in servers.items():
        if server["status"] == "ERROR" and id not in held:
            del wanted[id]  # one that never found a host holds nothing
    assert held == wanted, f"allocations {held}, servers need {wanted}"


def ports_match_servers(cloud):
    servers = listed(cloud, "server")
    ports = [p for p in listed(cloud, "port").values() if p["device_owner"].startswith("compute:") or p["device_id"] in servers]
    orphans = [p["id"] for p in ports if p["device_id"] not in servers]
    assert not orphans, f"ports of servers that are gone: {orphans}"
    for id, server in servers.items():
        theirs = sorted(f["ip_address"] for p in ports if p["device_id"] == id for f in p["fixed_ips"])
        shown = sorted(a["addr"] for addresses in server["addresses"].values() for a in addresses if a.get("OS-EXT-IPS:type") != "floating")
        assert theirs == shown, f"server {id} shows addresses {shown}, its ports have {theirs}"


def volumes_match_servers(cloud):
    """A volume is in use by the one server that says so, and by nobody else."""
    servers, volumes = listed(cloud, "server"), listed(cloud, "volume")
    said = {(v["id"], id) for id, s in servers.items() for v in s["os-extended-volumes:volumes_attached"]}
    held = {(id, a["server_id"]) for id, v in volumes.items() for a in v["attachments"]}
    assert said == held, f"servers say {said - held}, volumes {held - said}"
    wrong = [id for id, v in volumes.items() if (v["status"] == "in-use") != bool(v["attachments"])]
    assert not wrong, f"volumes whose status and attachments disagree: {[volumes[id] for id in wrong]}"


def doctor(cloud):
    cloud.tool("doctor")


class Foreign:
    """Things beside the cloud that look like its own, and must be as they were."""

    COMMANDS = [
        ("ip link add brq-foreign type bridge", "ip -br link show brq-foreign", "ip link del brq-foreign"),
        ("ip tuntap add tapforeign00 mode tap", "ip -br link show tapforeign00", "ip link del tapforeign00"),
        ("ip netns add qrouter-foreign", "ip netns list | grep qrouter-foreign", "ip netns del qrouter-foreign"),
        ("nft add table inet foreign '{ chain c { type filter hook forward priority 50; } ; }'", "nft list table inet foreign", "nft delete table inet foreign"),
    ]

    def __init__(self):
        for make, _, _ in self.COMMANDS:
            subprocess.run(make, shell=True, check=True, capture_output=True)
        self.before = self.look()

    def look(self):
        return [subprocess.run(look, shell=True, capture_output=True, text=True).stdout for _, look, _ in self.COMMANDS]

    def check(self):
        now = self.look()
        assert now == self.before, f"what is not ours was touched: {self.before} became {now}"

    def remove(self):
        for _, _, undo in self.COMMANDS:
            subprocess.run(undo, shell=True, capture_output=True)


def clean(cloud, clients, seconds=90):
    """Deletes everything the clients made or may have made."""
    prefixes = tuple(client.prefix + "-" for client in clients)
    deadline = time.monotonic() + seconds
    for kind in ("server", "keypair", "image", "snapshot", "volume", "floatingip", "router", "port", "network", "security-group"):
        service, path = LIST[kind]
        while True:
            left = [id for id, row in listed(cloud, kind).items() if (row.get("name") or row.get("description") or "").startswith(prefixes)]
            if not left:
                break
            assert time.monotonic() < deadline, f"cannot delete: {kind} {left}"
            for id in left:
                try:
                    status, body = cloud.call("DELETE", service, f"{path.split('?')[0].removesuffix('/detail')}/{id}")
                    assert status in (202, 204, 404, 409), f"DELETE {kind} {id}: {status} {body}"
                except Unknown:
                    pass
            time.sleep(0.1)
