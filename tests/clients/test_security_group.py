import pytest

from conftest import CommandFailed


@pytest.fixture
def group(cli, name, later):
    cli("security", "group", "create", "--description", "a test's", name)
    later(cli.text, "security", "group", "delete", name)
    return name


def rules(cli, group):
    return cli("security", "group", "rule", "list", "--long", group)


def test_a_new_group_lets_everything_out_and_nothing_in(cli, group):
    got = {(row["Direction"], row["Ethertype"], row["IP Protocol"]) for row in rules(cli, group)}
    assert got == {("egress", "IPv4", None), ("egress", "IPv6", None)}


def test_rules(cli, group):
    ssh = cli("security", "group", "rule", "create", "--protocol", "tcp", "--dst-port", "22", "--remote-ip", "172.24.4.0/24", group)
    assert (ssh["port_range_min"], ssh["port_range_max"], ssh["remote_ip_prefix"]) == (22, 22, "172.24.4.0/24")
    ping = cli("security", "group", "rule", "create", "--protocol", "icmp", "--icmp-type", "8", group)
    assert (ping["protocol"], ping["port_range_min"]) == ("icmp", 8)
    members = cli("security", "group", "rule", "create", "--protocol", "udp", "--dst-port", "5000:5010", "--remote-group", group, group)
    assert members["remote_group_id"] == members["security_group_id"]
    six = cli("security", "group", "rule", "create", "--ethertype", "IPv6", "--protocol", "ipv6-icmp", "--egress", group)
    assert (six["direction"], six["ether_type"]) == ("egress", "IPv6")
    assert len(rules(cli, group)) == 6
    with pytest.raises(CommandFailed, match="409"):
        cli("security", "group", "rule", "create", "--protocol", "tcp", "--dst-port", "22", "--remote-ip", "172.24.4.0/24", group)
    cli.text("security", "group", "rule", "delete", ssh["id"])
    assert ssh["id"] not in [row["ID"] for row in rules(cli, group)]


def test_wrong_rules_are_refused(cli, group):
    for words in (["--protocol", "tcp", "--dst-port", "70000"], ["--protocol", "300"], ["--protocol", "tcp", "--remote-ip", "10.0.0.0/40"],
                  ["--ethertype", "IPv6", "--protocol", "tcp", "--remote-ip", "10.0.0.0/24"]):
        with pytest.raises(CommandFailed, match="400|Invalid|invalid|range"):
            cli("security", "group", "rule", "create", *words, group)
    assert len(rules(cli, group)) == 2


def test_default_group_is_there_and_stays(cli, tenant):
    mine = cli.as_user(**tenant[3])
    assert mine.names("security", "group", "list") == ["default"]
    with pytest.raises(CommandFailed, match="409"):
        mine.text("security", "group", "delete", "default")


def test_a_group_in_use_stays(cli, group, name, later):
    cli("network", "create", name)
    later(cli.text, "network", "delete", name)
    port = cli("port", "create", "--network", name, "--security-group", group, name)
    assert len(port["security_group_ids"]) == 1
    with pytest.raises(CommandFailed, match="409"):
        cli.text("security", "group", "delete", group)
    cli.text("port", "delete", name)
