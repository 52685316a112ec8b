import ipaddress

import openstack.exceptions
import pytest

from conftest import CommandFailed


@pytest.fixture
def network(cli, name, later):
    """A network with one IPv4 subnet, both named like the test."""
    cli("network", "create", name)
    later(cli.text, "network", "delete", name)
    cli("subnet", "create", "--network", name, "--subnet-range", "10.77.0.0/24", "--dns-nameserver", "9.9.9.9", name)
    return name


def test_network_from_making_to_deleting(cli, name):
    made = cli("network", "create", "--description", "first", "--tag", "blue", "--mtu", "1400", name)
    assert made["status"] == "ACTIVE" and made["mtu"] == 1400 and made["tags"] == ["blue"]
    cli.text("network", "set", "--description", "second", "--disable", "--tag", "red", name)
    shown = cli("network", "show", name)
    assert shown["description"] == "second" and shown["admin_state_up"] is False and shown["tags"] == ["blue", "red"]
    assert shown["revision_number"] > made["revision_number"]
    assert name in cli.names("network", "list", "--tags", "red")
    cli.text("network", "unset", "--all-tag", name)
    cli.text("network", "delete", name)
    assert name not in cli.names("network", "list")


def test_subnet_from_making_to_deleting(cli, network):
    shown = cli("subnet", "show", network)
    assert shown["gateway_ip"] == "10.77.0.1" and shown["enable_dhcp"] is True
    assert shown["allocation_pools"] == [{"start": "10.77.0.2", "end": "10.77.0.254"}]
    cli.text("subnet", "set", "--no-dns-nameservers", "--dns-nameserver", "8.8.4.4", "--host-route", "destination=10.9.0.0/16,gateway=10.77.0.9", network)
    shown = cli("subnet", "show", network)
    assert shown["dns_nameservers"] == ["8.8.4.4"]
    assert shown["host_routes"] == [{"destination": "10.9.0.0/16", "nexthop": "10.77.0.9"}]
    with pytest.raises(CommandFailed, match="409|400"):
        cli("subnet", "create", "--network", network, "--subnet-range", "10.77.0.128/25", network + "-overlap")
    cli.text("subnet", "delete", network)
    assert cli("network", "show", network)["subnets"] == []


def test_an_ipv6_subnet(cli, network, name):
    made = cli("subnet", "create", "--network", network, "--ip-version", "6", "--subnet-range", "fd00:77::/64",
               "--ipv6-ra-mode", "slaac", "--ipv6-address-mode", "slaac", name + "-6")
    assert (made["ipv6_ra_mode"], made["ipv6_address_mode"], made["gateway_ip"]) == ("slaac", "slaac", "fd00:77::1")
    port = cli("port", "create", "--network", network, name + "-p")
    try:
        addresses = {ipaddress.ip_address(fixed["ip_address"]).version for fixed in port["fixed_ips"]}
        assert addresses == {4, 6}
    finally:
        cli.text("port", "delete", name + "-p")


def test_port_from_making_to_deleting(cli, network):
    made = cli("port", "create", "--network", network, "--fixed-ip", f"subnet={network},ip-address=10.77.0.50",
               "--mac-address", "fa:16:3e:00:77:01", network)
    assert made["fixed_ips"][0]["ip_address"] == "10.77.0.50" and made["mac_address"] == "fa:16:3e:00:77:01"
    assert made["status"] == "DOWN" and made["port_security_enabled"] is True
    with pytest.raises(CommandFailed, match="409"):
        cli("port", "create", "--network", network, "--fixed-ip", "ip-address=10.77.0.50", network + "-same")
    with pytest.raises(CommandFailed, match="409"):
        cli.text("network", "delete", network)
    cli.text("port", "set", "--name", network + "-b", "--allowed-address", "ip-address=10.77.0.60", network)
    shown = cli("port", "show", network + "-b")
    assert [pair["ip_address"] for pair in shown["allowed_address_pairs"]] == ["10.77.0.60"]
    assert network + "-b" in cli.names("port", "list", "--network", network)
    cli.text("port", "delete", network + "-b")


def test_router_joins_a_subnet_to_the_outside(cli, network, later):
    cli("router", "create", network)
    later(cli.text, "router", "delete", network)
    cli.text("router", "add", "subnet", network, network)
    later(cli.text, "router", "remove", "subnet", network, network)
    cli.text("router", "set", "--external-gateway", "public", network)
    gateway = cli("router", "show", network)["external_gateway_info"]
    assert ipaddress.ip_address(gateway["external_fixed_ips"][0]["ip_address"]) in ipaddress.ip_network("172.24.4.0/24")
    assert gateway["enable_snat"] is True
    ports = cli("port", "list", "--router", network)
    assert len(ports) == 2
    with pytest.raises(CommandFailed, match="409"):
        cli.text("router", "delete", network)
    cli.text("router", "unset", "--external-gateway", network)
    assert cli("router", "show", network)["external_gateway_info"] is None


def test_floating_address_follows_a_port(cli, network, later):
    cli("router", "create", "--external-gateway", "public", network)
    later(cli.text, "router", "delete", network)
    cli.text("router", "add", "subnet", network, network)
    later(cli.text, "router", "remove", "subnet", network, network)
    port = cli("port", "create", "--network", network, network)
    later(cli.text, "port", "delete", network)
    floating = cli("floating", "ip", "create", "public")
    later(cli.text, "floating", "ip", "delete", floating["id"])
    assert floating["status"] == "DOWN" and floating["port_id"] is None
    cli.text("floating", "ip", "set", "--port", network, floating["floating_ip_address"])
    shown = cli("floating", "ip", "show", floating["id"])
    assert shown["port_id"] == port["id"] and shown["fixed_ip_address"] == port["fixed_ips"][0]["ip_address"]
    cli.text("floating", "ip", "unset", "--port", floating["id"])
    assert cli("floating", "ip", "show", floating["id"])["port_id"] is None


def test_a_tenants_network_is_nobody_elses(cli, conn, tenant, name):
    theirs = tenant[2]
    hidden = conn.network.create_network(name=name)
    try:
        with pytest.raises(openstack.exceptions.NotFoundException):
            theirs.network.get_network(hidden.id)
        with pytest.raises(openstack.exceptions.HttpException) as refused:
            theirs.network.create_port(network_id=hidden.id)
        assert refused.value.status_code in (403, 404)
    finally:
        conn.network.delete_network(hidden)
    with pytest.raises(openstack.exceptions.ForbiddenException):
        theirs.network.create_network(name=name, is_router_external=True)


def test_lists_filter_sort_and_page(conn, name, later):
    made = [conn.network.create_network(name=f"{name}-{n}", description=name) for n in range(5)]
    for network in made:
        later(conn.network.delete_network, network)
    listed = [n.name for n in conn.network.networks(description=name, limit=2, sort_key="name", sort_dir="desc")]
    assert listed == [f"{name}-{n}" for n in (4, 3, 2, 1, 0)]


def test_a_stale_update_is_refused(conn, name, later):
    network = conn.network.create_network(name=name)
    later(conn.network.delete_network, network)
    first = conn.network.get_network(network.id)
    conn.network.update_network(network, description="newer")
    with pytest.raises(openstack.exceptions.PreconditionFailedException):
        conn.network.update_network(first, if_revision=first.revision_number, description="older")


def test_extensions_agents_and_quota(cli):
    aliases = {row["Alias"] for row in cli("extension", "list", "--network")}
    assert {"router", "external-net", "security-group", "port-security", "provider", "binding", "standard-attr-revisions"} <= aliases
    quota = {row["Resource"]: row["Limit"] for row in cli("quota", "show", "--network")}
    assert quota["networks"] != 0


def test_quality_of_service(cli, network, name, later):
    made = cli("network", "qos", "policy", "create", "--share", "--description", "fast", name)
    later(cli.text, "network", "qos", "policy", "delete", name)
    assert made["shared"] is True and made["rules"] == []
    limit = cli("network", "qos", "rule", "create", "--type", "bandwidth-limit", "--max-kbps", "5000", "--max-burst-kbits", "4000", "--egress", name)
    assert (limit["max_kbps"], limit["direction"]) == (5000, "egress")
    promise = cli("network", "qos", "rule", "create", "--type", "minimum-bandwidth", "--min-kbps", "100", "--ingress", name)
    packets = cli("network", "qos", "rule", "create", "--type", "minimum-packet-rate", "--min-kpps", "3", "--any", name)
    mark = cli("network", "qos", "rule", "create", "--type", "dscp-marking", "--dscp-mark", "26", name)
    assert (packets["direction"], mark["dscp_mark"]) == ("any", 26)
    for wrong in (["minimum-bandwidth", "--min-kbps", "9000"], ["minimum-packet-rate", "--min-kpps", "1"]):
        with pytest.raises(CommandFailed, match="409"):
            cli("network", "qos", "rule", "create", "--type", *wrong, "--ingress", name)
    cli.text("network", "qos", "rule", "set", "--max-kbps", "6000", name, limit["id"])
    assert cli("network", "qos", "rule", "show", name, limit["id"])["max_kbps"] == 6000
    assert {rule["ID"] for rule in cli("network", "qos", "rule", "list", name)} == {limit["id"], promise["id"], packets["id"], mark["id"]}
    assert {"bandwidth_limit", "dscp_marking", "minimum_bandwidth", "minimum_packet_rate", "packet_rate_limit"} == {kind["Type"] for kind in cli("network", "qos", "rule", "type", "list")}
    cli.text("network", "set", "--qos-policy", name, network)
    assert cli("network", "show", network)["qos_policy_id"] == made["id"]
    port = cli("port", "create", "--network", network, "--qos-policy", name, name)
    later(cli.text, "port", "delete", name)
    assert port["qos_policy_id"] == port["qos_network_policy_id"] == made["id"]
    asked = [group["resources"] for group in port["resource_request"]["request_groups"]]
    assert asked == [{"NET_BW_IGR_KILOBIT_PER_SEC": 100}, {"NET_PACKET_RATE_KILOPACKET_PER_SEC": 3}]
    with pytest.raises(CommandFailed, match="409"):
        cli.text("network", "qos", "policy", "delete", name)
    cli.text("port", "unset", "--qos-policy", name)
    cli.text("network", "set", "--no-qos-policy", network)
    for rule in (limit, packets, mark):
        cli.text("network", "qos", "rule", "delete", name, rule["id"])
    assert [rule["type"] for rule in cli("network", "qos", "policy", "show", name)["rules"]] == ["minimum_bandwidth"]
