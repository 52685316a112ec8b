"""What guests of one tenant, and of two, can and cannot do to each other; seen from inside real guests.

Tenant one has `a` and `b`, tenant two has `c`, on networks with the same addresses; `c` even has the address of `a`."""
import contextlib
import json
import os
import socket
import subprocess
import uuid

import openstack
import pytest

from conftest import until

HOME = os.environ["STURNUS_HOME"]


class Tenant:
    """A project with a member, a routed network 10.88.0.0/24 and a key."""

    def __init__(self, admin, keep):
        name, password = f"isolation-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
        self.keep = keep
        project = admin.identity.create_project(name=name, domain_id="default")
        keep(admin.identity.delete_project, project)
        user = admin.identity.create_user(name=name, password=password, domain_id="default")
        keep(admin.identity.delete_user, user)
        admin.identity.assign_project_role_to_user(project, user, admin.identity.find_role("member"))
        self.conn = openstack.connect(region_name="RegionOne", identity_api_version="3", auth={
            "auth_url": admin.auth["auth_url"], "username": name, "password": password, "project_name": name,
            "user_domain_id": "default", "project_domain_id": "default"})
        # what neutron made for the project goes with this
        keep(lambda: [admin.network.delete_security_group(g) for g in admin.network.security_groups(project_id=project.id)])
        network = self.conn.network
        self.network = network.create_network(name=name)
        keep(network.delete_network, self.network)
        self.subnet = network.create_subnet(network_id=self.network.id, ip_version=4, cidr="10.88.0.0/24")
        router = network.create_router(name=name, external_gateway_info={"network_id": network.find_network("public").id})
        keep(network.delete_router, router)
        network.add_interface_to_router(router, subnet_id=self.subnet.id)
        keep(network.remove_interface_from_router, router, subnet_id=self.subnet.id)
        self.group = next(network.security_groups(name="default"))
        self.key = f"{HOME}/{name}.key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        with open(self.key + ".pub") as public:
            self.conn.compute.create_keypair(name=name, public_key=public.read())
        keep(self.conn.compute.delete_keypair, name)
        self.name = name

    def guest(self, name, address):
        return Guest(self, name, address)

    def allow_ssh(self):
        return self.conn.network.create_security_group_rule(
            security_group_id=self.group.id, direction="ingress", ethertype="IPv4", protocol="tcp", port_range_min=22, port_range_max=22)


class Guest:
    def __init__(self, tenant, name, address):
        conn = self.conn = tenant.conn
        self.tenant, self.fixed = tenant, address
        port = conn.network.create_port(network_id=tenant.network.id, fixed_ips=[{"subnet_id": tenant.subnet.id, "ip_address": address}])
        tenant.keep(conn.network.delete_port, port)
        self.server = conn.compute.create_server(
            name=name, flavor_id=conn.compute.find_flavor("m1.tiny").id, image_id=conn.image.find_image("cirros").id,
            networks=[{"port": port.id}], key_name=tenant.name)

        def gone():
            conn.compute.delete_server(self.server, ignore_missing=True)
            conn.compute.wait_for_delete(self.server, wait=60)
        tenant.keep(gone)
        floating = conn.network.create_ip(floating_network_id=conn.network.find_network("public").id, port_id=port.id)
        tenant.keep(conn.network.delete_ip, floating)
        self.floating = floating.floating_ip_address

    def wait_booted(self):
        until(f"{self.server.name} booted", lambda: " is up after " in self.conn.compute.get_server_console_output(self.server)["output"], 120)

    def run(self, command, check=True):
        done = subprocess.run(
            ["ssh", "-F", f"{HOME}/ssh_config", "-o", "BatchMode=yes", "-i", self.tenant.key, f"cirros@{self.floating}", command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 or not check, f"{self.server.name}: {command}: {done.stdout}{done.stderr}"
        return done.stdout if check else done.returncode == 0

    def answers_on_ssh(self):
        try:
            with socket.create_connection((self.floating, 22), timeout=2) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False


@pytest.fixture(scope="module")
def guests(conn):
    with contextlib.ExitStack() as stack:
        one, two = Tenant(conn, stack.callback), Tenant(conn, stack.callback)
        a, b = one.guest("a", "10.88.0.10"), one.guest("b", "10.88.0.20")
        a.wait_booted()
        b.wait_booted()
        c = two.guest("c", "10.88.0.10")
        c.wait_booted()
        yield a, b, c


@pytest.fixture(scope="module")
def reachable(guests):
    """The same guests, with ssh let in."""
    for tenant in {guest.tenant for guest in guests}:
        if not any(rule.protocol == "tcp" for rule in tenant.conn.network.security_group_rules(security_group_id=tenant.group.id)):
            tenant.allow_ssh()
    for guest in guests:
        until("ssh", guest.answers_on_ssh)
    return guests


def test_nothing_gets_in_before_a_rule_lets_it(guests):
    a, b, _ = guests
    assert not a.answers_on_ssh()
    rule = a.tenant.allow_ssh()
    until("the rule is in force", a.answers_on_ssh, 10)
    assert subprocess.run(["ping", "-c", "2", "-W", "1", a.floating], stdout=subprocess.DEVNULL).returncode != 0
    a.conn.network.delete_security_group_rule(rule)
    until("the rule is out of force", lambda: not a.answers_on_ssh(), 10)


def test_members_of_a_group_reach_each_other(reachable):
    a, b, _ = reachable
    a.run(f"ping -c 2 -W 2 {b.fixed}")


def test_a_spoofed_source_goes_nowhere(reachable):
    a, b, _ = reachable
    a.run("sudo ip addr add 10.88.0.66/24 dev eth0")
    try:
        assert not a.run(f"ping -c 3 -W 1 -I 10.88.0.66 {b.fixed}", check=False)
        a.run(f"ping -c 2 -W 2 -I {a.fixed} {b.fixed}")
    finally:
        a.run("sudo ip addr del 10.88.0.66/24 dev eth0")


def test_an_allowed_address_pair_may_be_used(reachable):
    a, b, _ = reachable
    # by its address, because a rule by group knows the members' fixed addresses only
    a.conn.network.create_security_group_rule(
        security_group_id=a.tenant.group.id, direction="ingress", ethertype="IPv4", protocol="icmp", remote_ip_prefix="10.88.0.77/32")
    port = next(a.conn.network.ports(device_id=a.server.id))
    a.conn.network.update_port(port, allowed_address_pairs=[{"ip_address": "10.88.0.77"}])
    a.run("sudo ip addr add 10.88.0.77/24 dev eth0")
    try:
        until("the pair is in force", lambda: a.run(f"ping -c 1 -W 1 -I 10.88.0.77 {b.fixed}", check=False), 15)
    finally:
        a.run("sudo ip addr del 10.88.0.77/24 dev eth0")
        a.conn.network.update_port(port, allowed_address_pairs=[])


def test_tenants_do_not_meet_even_with_equal_addresses(reachable):
    a, b, c = reachable
    assert a.run("hostname").strip() == "a" and c.run("hostname").strip() == "c"
    assert not c.run(f"ping -c 3 -W 1 {b.fixed}", check=False)


def test_metadata_is_ones_own(reachable):
    for guest in reachable:
        own = json.loads(guest.run("wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json"))
        assert (own["uuid"], own["name"]) == (guest.server.id, guest.server.name)
    a, b, _ = reachable
    forged = f"wget -q -O - --header 'X-Forwarded-For: {b.fixed}' --header 'X-Instance-ID: {b.server.id}' "
    assert json.loads(a.run(forged + "http://169.254.169.254/openstack/latest/meta_data.json"))["uuid"] == a.server.id


def test_the_outside_is_reached_through_the_router(reachable):
    a, _, _ = reachable
    a.run("ping -c 2 -W 2 172.24.4.1")
