"""A client that calls at random, and remembers what it was promised."""
import random

from cloud import LIST, Unknown, address, by_id

# What may be wrong with a call of ours when the cloud is right: the resource is busy, in use, gone, or the quota is reached.
REFUSED = (400, 403, 404, 409, 413)
MAX_SERVERS = 2
MAX_VOLUMES = 3


class Thing:
    """A resource as this client knows it. `may` holds for each attribute every value that would be right."""

    def __init__(self, kind, id, uses=(), **known):
        self.kind, self.id, self.uses = kind, id, uses
        self.may = {key: {value} for key, value in known.items()}
        self.gone = {False}

    def sure_alive(self):
        return self.gone == {False}


class Client:
    def __init__(self, cloud, seed, number, given):
        self.cloud, self.given = cloud, given
        self.random = random.Random(f"{seed}/client {number}")
        self.prefix = f"chaos-{seed}-{number}"
        self.count = 0
        self.things = []
        self.maybe_made = []  # (kind, name) of creations without an answer
        self.calls = self.unknown = 0
        self.wrong = []
        self.worked = {}  # how often each action was granted
        self.stopping = False

    # --- the calls ---
    def run(self):
        actions = [
            (12, self.settle), (8, self.server_create), (3, self.server_delete), (12, self.server_power), (2, self.server_rename),
            (8, self.server_resize), (8, self.server_resize_end), (5, self.server_rebuild),
            (6, self.volume_create), (2, self.volume_delete), (4, self.volume_extend), (12, self.volume_attach), (6, self.volume_detach),
            (4, self.snapshot_create), (3, self.snapshot_delete),
            (2, self.network_create), (2, self.network_delete), (2, self.network_update), (3, self.port_create), (3, self.port_delete),
            (1, self.group_create), (1, self.group_rule), (1, self.group_delete), (1, self.keypair_create), (1, self.keypair_delete),
            (2, self.image_create), (2, self.image_delete), (1, self.router_create), (1, self.router_delete),
            (2, self.floating_create), (2, self.floating_delete), (5, self.read),
        ]
        if self.cloud.loses_hosts:
            actions += [(6, self.server_migrate), (8, self.server_migrate_live)]
        weights, functions = zip(*actions)
        self.worked = {function.__name__: 0 for function in functions}
        while not self.stopping:
            self.action = self.random.choices(functions, weights)[0]
            self.action()

    def call(self, method, service, path, body=None, good=(), **more):
        """The decoded body when the answer is good, False when it is a fair refusal, Unknown raised without an answer."""
        self.calls += 1
        try:
            status, answer = self.cloud.call(method, service, path, body, **more)
        except Unknown:
            self.unknown += 1
            raise
        if status in good:
            self.worked[self.action.__name__] += 1
            return answer if answer is not None else True
        if status not in REFUSED:
            self.wrong.append(f"{method} {service} {path}: {status} {str(answer)[:300]}")
        return False

    def name(self):
        self.count += 1
        return f"{self.prefix}-{self.count}"

    def pick(self, kind):
        alive = [thing for thing in self.things if thing.kind == kind and thing.sure_alive()]
        return self.random.choice(alive) if alive else None

    def create(self, kind, service, path, body, good, name, uses=(), id=None, known=None):
        """The new thing; `body` has one key, the resource's, and so has the answer (image has neither)."""
        try:
            made = self.call("POST", service, path, body, good)
        except Unknown:
            if name:
                self.maybe_made.append((kind, name))
            return None
        if not made:
            return None
        made = made.get(next(iter(body)), made) if len(body) == 1 else made
        thing = Thing(kind, id or made["id"], uses, **({"name": name} if known is None else known))
        self.things.append(thing)
        return thing

    def delete(self, thing, service, path, good=(202, 204)):
        try:
            if self.call("DELETE", service, path, good=good):
                thing.gone = {True}
        except Unknown:
            thing.gone = {False, True}

    def delete_with(self, thing, kind):
        """What of `kind` belongs to `thing` goes where `thing` went."""
        for part in self.things:
            if part.kind == kind and thing in part.uses:
                part.gone = {True} if thing.gone == {True} else part.gone | thing.gone

    def change(self, thing, key, value, method, service, path, body, good):
        """An update: without an answer the old and the new value are both right."""
        try:
            if self.call(method, service, path, body, good):
                thing.may[key] = {value}
        except Unknown:
            thing.may[key] = thing.may.get(key, set()) | {value}

    # --- what was left open by calls without an answer ---
    def settle(self):
        """Looks for something that may have been made, or deletes once more what may be gone."""
        doubtful = [thing for thing in self.things if len(thing.gone) > 1]
        if self.maybe_made:
            kind, name = self.maybe_made.pop(0)
            try:
                found = by_id(kind, self.call("GET", *LIST[kind], good=(200,)))
                for id, row in found.items():
                    if name in (row.get("name"), row.get("description")):
                        self.call("DELETE", *address(kind, id), good=(202, 204))
            except Unknown:
                self.maybe_made.append((kind, name))
        elif doubtful:
            thing = self.random.choice(doubtful)
            self.delete(thing, *address(thing.kind, thing.id), good=(202, 204, 404))

    # --- compute ---
    def server_create(self):
        mine = sum(thing.kind == "server" and thing.gone != {True} for thing in self.things) + sum(kind == "server" for kind, _ in self.maybe_made)
        if mine >= MAX_SERVERS:
            return
        name, nic = self.name(), self.random.random() < 0.7
        networks = [{"uuid": self.given["private"]}] if nic else "none"
        body = {"server": {"name": name, "flavorRef": self.given["flavor"], "imageRef": self.given["image"], "networks": networks}}
        self.create("server", "compute", "/servers", body, (202,), name, known={"name": name, "status": "ACTIVE", "flavor": self.given["flavor"], "nics": int(nic)})

    def server_delete(self):
        server = self.pick("server")
        if server:
            self.delete(server, "compute", f"/servers/{server.id}")

    def server_power(self):
        server = self.pick("server")
        if not server:
            return
        body, then = self.random.choice([
            ({"os-stop": None}, "SHUTOFF"), ({"os-start": None}, "ACTIVE"), ({"reboot": {"type": "HARD"}}, "ACTIVE"), ({"pause": None}, "PAUSED"),
            ({"unpause": None}, "ACTIVE"), ({"suspend": None}, "SUSPENDED"), ({"resume": None}, "ACTIVE")])
        self.change(server, "status", then, "POST", "compute", f"/servers/{server.id}/action", body, (202,))

    def server_rename(self):
        server = self.pick("server")
        if server:
            name = self.name()
            self.change(server, "name", name, "PUT", "compute", f"/servers/{server.id}", {"server": {"name": name}}, (200,))

    def server_rebuild(self):
        server = self.pick("server")
        if server:
            name = self.name()
            body = {"rebuild": {"imageRef": self.given["image"], "name": name}}
            self.change(server, "name", name, "POST", "compute", f"/servers/{server.id}/action", body, (202,))

    def server_resize(self):
        server = self.pick_to_move()
        if not server:
            return
        (old,), new = server.may["flavor"], self.given["larger"]
        if new != old:  # a smaller disk is refused, later
            self.move(server, {"resize": {"flavorRef": new}}, new)

    def server_migrate(self):
        server = self.pick_to_move()
        if server:
            (flavor,) = server.may["flavor"]
            self.move(server, {"migrate": None}, flavor)

    def server_migrate_live(self):
        server = self.pick("server")
        if server:
            body = {"os-migrateLive": {"host": None, "block_migration": "auto"}}
            self.try_call("POST", "compute", f"/servers/{server.id}/action", body, (202,), version="2.30")

    def pick_to_move(self):
        server = self.pick("server")
        sure = server and len(server.may["status"]) == 1 and len(server.may["flavor"]) == 1
        return server if sure and server.may["status"] <= {"ACTIVE", "SHUTOFF"} else None

    def move(self, server, body, new):
        before, old = server.may["status"], next(iter(server.may["flavor"]))
        granted = None
        try:
            granted = self.call("POST", "compute", f"/servers/{server.id}/action", body, (202,))
        except Unknown:
            pass
        if granted is False:
            return
        # Where hosts are lost there may be none to move to in the end.
        sure = granted and not self.cloud.loses_hosts
        server.may["status"], server.may["flavor"] = ({"VERIFY_RESIZE"}, {new}) if sure else (before | {"VERIFY_RESIZE"}, {old, new})
        server.resize = (before, old, new)

    def server_resize_end(self):
        server = self.pick("server")
        if not server or "VERIFY_RESIZE" not in server.may["status"]:
            return
        before, old, new = server.resize
        verb, flavor = self.random.choice([("confirmResize", new), ("revertResize", old)])
        try:
            if self.call("POST", "compute", f"/servers/{server.id}/action", {verb: None}, (202, 204)):
                server.may["status"], server.may["flavor"] = before, {flavor}
        except Unknown:
            server.may["status"], server.may["flavor"] = server.may["status"] | before, server.may["flavor"] | {flavor}

    def keypair_create(self):
        name = self.name()
        self.create("keypair", "compute", "/os-keypairs", {"keypair": {"name": name, "public_key": self.given["key"]}}, (200, 201), name, id=name)

    def keypair_delete(self):
        keypair = self.pick("keypair")
        if keypair:
            self.delete(keypair, "compute", f"/os-keypairs/{keypair.id}")

    # --- block storage ---
    def volume_create(self):
        mine = sum(thing.kind == "volume" and thing.gone != {True} for thing in self.things) + sum(kind == "volume" for kind, _ in self.maybe_made)
        if mine >= MAX_VOLUMES:
            return
        name, snapshot = self.name(), self.pick("snapshot")
        body, uses = {"name": name, "size": 1}, []
        if snapshot and self.random.random() < 0.5:
            body["snapshot_id"], uses = snapshot.id, [snapshot]
        elif self.random.random() < 0.3:
            body["imageRef"] = self.given["image"]
        self.create("volume", "block-storage", "/volumes", {"volume": body}, (202,), name, uses, known={"name": name, "size": 1})

    def volume_delete(self):
        volume = self.pick("volume")
        if volume:
            self.delete(volume, "block-storage", f"/volumes/{volume.id}")

    def volume_extend(self):
        volume = self.pick("volume")
        if volume:
            size = self.random.randrange(2, 6)
            self.change(volume, "size", size, "POST", "block-storage", f"/volumes/{volume.id}/action", {"os-extend": {"new_size": size}}, (202,))

    def volume_attach(self):
        volume, server = self.pick("volume"), self.pick("server")
        if volume and server:
            self.try_call("POST", "compute", f"/servers/{server.id}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume.id}}, (200, 202))

    def volume_detach(self):
        volume, server = self.pick("volume"), self.pick("server")
        if volume and server:
            self.try_call("DELETE", "compute", f"/servers/{server.id}/os-volume_attachments/{volume.id}", None, (202,))

    def snapshot_create(self):
        volume = self.pick("volume")
        if volume:
            name = self.name()
            self.create("snapshot", "block-storage", "/snapshots", {"snapshot": {"name": name, "volume_id": volume.id, "force": True}}, (202,), name)

    def snapshot_delete(self):
        snapshot = self.pick("snapshot")
        if snapshot:
            self.delete(snapshot, "block-storage", f"/snapshots/{snapshot.id}")

    def try_call(self, *words, **more):
        """A call whose outcome the checks of the whole decide."""
        try:
            self.call(*words, **more)
        except Unknown:
            pass

    # --- network ---
    def network_create(self):
        name = self.name()
        network = self.create("network", "network", "/networks", {"network": {"name": name}}, (201,), name, known={"name": name, "description": ""})
        if network:
            name, cidr = self.name(), f"10.{self.random.randrange(100, 200)}.{self.random.randrange(256)}.0/24"
            body = {"subnet": {"name": name, "network_id": network.id, "cidr": cidr, "ip_version": 4}}
            self.create("subnet", "network", "/subnets", body, (201,), name, [network], known={"name": name, "cidr": cidr})

    def network_update(self):
        network = self.pick("network")
        if network:
            text = self.name()
            self.change(network, "description", text, "PUT", "network", f"/networks/{network.id}", {"network": {"description": text}}, (200,))

    def network_delete(self):
        network = self.pick("network")
        if network:
            self.delete(network, "network", f"/networks/{network.id}")
            self.delete_with(network, "subnet")

    def port_create(self):
        network = self.pick("network")
        if network:
            name = self.name()
            self.create("port", "network", "/ports", {"port": {"name": name, "network_id": network.id}}, (201,), name, [network])

    def port_delete(self):
        port = self.pick("port")
        if port:
            self.delete(port, "network", f"/ports/{port.id}")

    def group_create(self):
        name = self.name()
        self.create("security-group", "network", "/security-groups", {"security_group": {"name": name}}, (201,), name)

    def group_rule(self):
        group = self.pick("security-group")
        if group:
            port = self.random.randrange(1, 65536)
            body = {"security_group_rule": {
                "security_group_id": group.id, "direction": "ingress", "protocol": "tcp", "port_range_min": port, "port_range_max": port}}
            self.create("security-group-rule", "network", "/security-group-rules", body, (201,), None, [group], known={"port_range_min": port})

    def group_delete(self):
        group = self.pick("security-group")
        if group:
            self.delete(group, "network", f"/security-groups/{group.id}")
            self.delete_with(group, "security-group-rule")

    def router_create(self):
        name = self.name()
        body = {"router": {"name": name, "external_gateway_info": {"network_id": self.given["public"]}}}
        self.create("router", "network", "/routers", body, (201,), name)

    def router_delete(self):
        router = self.pick("router")
        if router:
            self.delete(router, "network", f"/routers/{router.id}")

    def floating_create(self):
        name = self.name()
        body = {"floatingip": {"floating_network_id": self.given["public"], "description": name}}
        self.create("floatingip", "network", "/floatingips", body, (201,), name, known={"description": name})

    def floating_delete(self):
        floating = self.pick("floatingip")
        if floating:
            self.delete(floating, "network", f"/floatingips/{floating.id}")

    # --- image ---
    def image_create(self):
        name = self.name()
        body = {"name": name, "disk_format": "raw", "container_format": "bare"}
        image = self.create("image", "image", "/images", body, (201,), name, known={"name": name, "status": "queued"})
        if image:
            content = self.random.randbytes(510) + b"\x55\xaa" + self.random.randbytes(65024)
            try:
                if self.call("PUT", "image", f"/images/{image.id}/file", good=(204,), data=content):
                    image.may["status"], image.may["size"] = {"active"}, {len(content)}
            except Unknown:
                image.may["status"] = {"queued", "active"}

    def image_delete(self):
        image = self.pick("image")
        if image:
            self.delete(image, "image", f"/images/{image.id}")

    # --- reads, which must never fail ---
    def read(self):
        service, path = self.random.choice([("compute", "/servers/detail"), ("network", "/ports"), ("network", "/networks"), ("image", "/images"),
                                            ("compute", "/flavors/detail"), ("identity", "/users"), ("placement", "/resource_providers"),
                                            ("block-storage", "/volumes/detail"), ("block-storage", "/snapshots")])
        if service == "identity" and not self.cloud.urls["identity"].endswith("/v3"):
            path = "/v3" + path
        try:
            self.calls += 1
            status, answer = self.cloud.call("GET", service, path)
            self.worked["read"] += status == 200
            if status != 200:
                self.wrong.append(f"GET {service} {path}: {status} {str(answer)[:300]}")
        except Unknown:
            self.unknown += 1
