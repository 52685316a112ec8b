"""What must be true once the cloud is quiet again. Each check raises AssertionError with what it found."""
import collections
import json
import pathlib
import subprocess
import threading
import time

from cloud import LIST, Unknown, address, by_id

FINAL = {"ACTIVE", "SHUTOFF", "PAUSED", "SUSPENDED", "VERIFY_RESIZE"}
RUNNING = 1  # a power state
FINAL_VOLUME = {"available", "in-use"}


def listed(cloud, kind):
    """{id: resource} of everything of a kind."""
    service, path = LIST[kind]
    return by_id(kind, cloud.ask(service, path))


def wait_for_quiet(cloud, seconds=120):
    """Until no server is on its way to another state and the host runs exactly the active ones."""
    deadline = time.monotonic() + seconds
    while True:
        servers = listed(cloud, "server")
        busy = {id: (s["status"], s["OS-EXT-STS:task_state"]) for id, s in servers.items()
                if s["OS-EXT-STS:task_state"] or s["status"] not in FINAL | {"ERROR"}}
        volumes = {v["id"]: v["status"] for v in listed(cloud, "volume").values() if v["status"] not in FINAL_VOLUME}
        volumes |= {s["id"]: s["status"] for s in listed(cloud, "snapshot").values() if s["status"] != "available"}
        images = [i for i in listed(cloud, "image").values() if i["status"] in ("saving", "importing")]
        active = {id for id, s in servers.items() if s["status"] in ("ACTIVE", "PAUSED")
                  or (s["status"] == "VERIFY_RESIZE" and s["OS-EXT-STS:power_state"] == RUNNING)}
        operations = cloud.ask("operation", "/v1/operations?open=true")["operations"]
        running = set(cloud.guests())
        if not busy and not images and not volumes and not operations and active == running:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not quiet after {seconds} s: servers {busy}, images {[i['id'] for i in images]}, volumes {volumes}, "
                                 f"operations {[(o['kind'], o['resource_id'], o['step'], o['error']) for o in operations]}, active but not running {active - running}, running but not active {running - active}")
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
                value = row.get(key)
                if key == "nics":
                    value = sum(len(a) for a in row["addresses"].values())
                elif key == "flavor":
                    value = value["id"]
                if value not in may:
                    fault = f"; fault: {row['fault'].get('message')}" if row.get("fault") else ""
                    wrong.append(f"{thing.kind} {thing.id}: {key} is {value!r}, right were {may}{fault}")
    assert not wrong, "\n".join(wrong)


def allocations_match(cloud):
    """What servers, volumes and snapshots take is what placement has promised, and nothing else is promised."""
    flavors = {f["id"]: f for f in cloud.ask("compute", "/flavors/detail?is_public=None")["flavors"]}
    servers = listed(cloud, "server")
    wanted = {}
    for id, server in servers.items():
        flavor = flavors[server["flavor"]["id"]]
        wanted[id] = {"VCPU": flavor["vcpus"], "MEMORY_MB": flavor["ram"], "DISK_GB": flavor["disk"]}
    for id, volume in listed(cloud, "volume").items():
        wanted[id] = {"CUSTOM_VOLUME_GB": volume["size"]}
    for snapshot in listed(cloud, "snapshot").values():
        if snapshot["status"] != "error":
            wanted[snapshot["volume_id"]]["CUSTOM_VOLUME_GB"] += snapshot["size"]
    held = {}
    for provider in cloud.ask("placement", "/resource_providers")["resource_providers"]:
        for consumer, allocation in cloud.ask("placement", f"/resource_providers/{provider['uuid']}/allocations")["allocations"].items():
            assert consumer not in held, f"{consumer} holds allocations on two hosts"
            held[consumer] = allocation["resources"]
    for id, server in servers.items():
        if server["status"] == "ERROR" and id not in held:
            del wanted[id]  # one that never found a host holds nothing
        if server["status"] == "VERIFY_RESIZE":  # the way back is held by the migration
            migrations = cloud.ask("compute", f"/os-migrations?instance_uuid={id}", version="2.59")["migrations"]
            open = [m["uuid"] for m in migrations if m["status"] == "finished"]
            assert len(open) == 1, f"server {id} waits for its resize to be confirmed, its migrations: {migrations}"
            wanted[open[0]] = held.get(open[0])
            assert held.get(open[0]), f"the way back of server {id} holds no allocation"
    for id, volume in listed(cloud, "volume").items():
        if volume["status"] == "error" and id not in held:
            del wanted[id]  # one that found no place holds nothing
    assert held == wanted, f"allocations {held}, servers and volumes need {wanted}"


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


def quotas_match(cloud):
    """What counts against quotas is what there is."""
    servers, flavors = listed(cloud, "server"), {f["id"]: f for f in cloud.ask("compute", "/flavors/detail?is_public=None")["flavors"]}
    used = cloud.ask("compute", "/limits")["limits"]["absolute"]
    sizes = [flavors[s["flavor"]["id"]] for s in servers.values()]
    wanted = {"totalInstancesUsed": len(servers), "totalCoresUsed": sum(f["vcpus"] for f in sizes), "totalRAMUsed": sum(f["ram"] for f in sizes)}
    used |= cloud.ask("block-storage", "/limits")["limits"]["absolute"]
    volumes, snapshots = listed(cloud, "volume").values(), listed(cloud, "snapshot").values()
    wanted |= {"totalVolumesUsed": len(volumes), "totalSnapshotsUsed": len(snapshots),
               "totalGigabytesUsed": sum(v["size"] for v in volumes) + sum(s["size"] for s in snapshots)}
    shown = cloud.ask("network", f"/quotas/{cloud.project}/details")["quota"]
    for kind in ("network", "subnet", "port", "router", "floatingip", "security-group", "security-group-rule"):
        name = kind.replace("-", "_")
        wanted[name] = sum(row["project_id"] == cloud.project for row in listed(cloud, kind).values())
        used[name] = shown[name]["used"]
    wrong = {name: (used.get(name), count) for name, count in wanted.items() if used.get(name) != count}
    assert not wrong, f"used by the quota's count, and there: {wrong}"


def doctor(cloud):
    cloud.tool("doctor")


def doctors(cloud):
    for host in range(cloud.count):
        cloud.site_tool("run", str(host), "sturnus", "doctor")


class Twice(threading.Thread):
    """Looks all the time how many processes each guest has on this machine, which has all hosts of the site. One that waits for a guest
    on its way (`-incoming`) does not count."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seen, self.looks, self.over = set(), 0, False
        self.start()

    def run(self):
        while not self.over:
            found = collections.Counter()
            for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = path.read_bytes().split(b"\0")
                except OSError:
                    continue  # it has just ended
                if words[0].endswith(b"qemu-system-x86_64") and b"-uuid" in words and b"-incoming" not in words:
                    found[words[words.index(b"-uuid") + 1].decode()] += 1
            self.seen |= {server for server, count in found.items() if count > 1}
            self.looks += 1
            time.sleep(0.02)

    def check(self):
        self.over = True
        self.join()
        assert self.looks > 100 and not self.seen, f"{self.looks} looks; guests with two processes at once: {self.seen}"


def machines_match(cloud, seconds=20):
    """Every simulated machine has what its servers and volumes need, and nothing else."""
    deadline = time.monotonic() + seconds
    while (wrong := machines_wrong(cloud)) and time.monotonic() < deadline:
        time.sleep(0.1)  # the last files go after the last answer
    assert not wrong, "\n".join(wrong)


def machines_wrong(cloud):
    wrong, servers, seen = [], listed(cloud, "server"), set()
    ports = {}
    for port in listed(cloud, "port").values():
        ports.setdefault(port["device_id"], set()).add(port["id"])
    for (host, id), has in cloud.instances().items():
        server = servers.get(id)
        if not server or server["OS-EXT-SRV-ATTR:host"] != host:
            wrong.append(f"{host} has something of server {id}, which is {'on another host' if server else 'gone'}: {has}")
            continue
        seen.add(id)
        runs = server["status"] in ("ACTIVE", "PAUSED") or (server["status"] == "VERIFY_RESIZE" and server["OS-EXT-STS:power_state"] == RUNNING)
        if runs != bool(has["guest"]):
            wrong.append(f"server {id} is {server['status']}, its process on {host}: {has['guest']}")
        elif runs:
            attached = {v["id"] for v in server["os-extended-volumes:volumes_attached"]}
            if set(has["guest"]["volumes"]) != attached:
                wrong.append(f"server {id} has volumes {attached}, its process {has['guest']['volumes']}")
            if set(has["guest"]["cards"]) != ports.get(id, set()):
                wrong.append(f"server {id} has ports {ports.get(id)}, its process {has['guest']['cards']}")
        if has["memory"] != (server["status"] == "SUSPENDED"):
            wrong.append(f"server {id} is {server['status']}, its memory is {'saved' if has['memory'] else 'not saved'}")
        if has["copies"]:
            wrong.append(f"copies of disks of server {id} were left: {has['copies']}")
    wrong += [f"{s['status']} server {id} is on no machine" for id, s in servers.items() if id not in seen and s["status"] in FINAL]

    volumes, snapshots = listed(cloud, "volume"), listed(cloud, "snapshot")
    known, frozen = set(), set()
    for host in cloud.hosts():
        home = cloud.home / "simulated" / host
        index = json.loads((home / "host" / "volumes.json").read_text()) if (home / "host" / "volumes.json").exists() else {"volumes": {}, "layers": {}}
        layers = {path.stem for path in (home / "machine" / "layers").glob("*.json")}
        if layers != set(index["layers"]):
            wrong.append(f"{host}: layers {layers - set(index['layers'])} are in no index, layers {set(index['layers']) - layers} are gone")
        known |= set(index["volumes"])
        frozen |= {snapshot for volume in index["volumes"].values() for snapshot in volume.get("snapshots", {})}
        wrong += [f"{host}: an export was left: {path.stem}" for path in (home / "machine" / "exports").glob("*.json")]
        documents = {path.name.split(".")[0] for path in (home / "host" / "instances").glob("*.json")}
        theirs = {id for id, s in servers.items() if s["OS-EXT-SRV-ATTR:host"] == host}
        if documents != theirs:
            wrong.append(f"{host} has documents of {documents}, its servers are {theirs}")
    if known != set(volumes):
        wrong.append(f"volumes on hosts but gone: {known - set(volumes)}; volumes on no host: {set(volumes) - known}")
    if frozen != set(snapshots):
        wrong.append(f"snapshots on hosts but gone: {frozen - set(snapshots)}; snapshots on no host: {set(snapshots) - frozen}")
    return wrong


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
        while True:
            left = [id for id, row in listed(cloud, kind).items() if (row.get("name") or row.get("description") or "").startswith(prefixes)]
            if not left:
                break
            assert time.monotonic() < deadline, f"cannot delete: {kind} {left}"
            for id in left:
                try:
                    status, body = cloud.call("DELETE", *address(kind, id))
                    under_way = kind in ("snapshot", "volume") and status == 400
                    assert under_way or status in (202, 204, 404, 409), f"DELETE {kind} {id}: {status} {body}"
                except Unknown:
                    pass
            time.sleep(0.1)
