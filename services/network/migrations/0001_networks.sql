CREATE TABLE network (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, project_id TEXT NOT NULL, revision_number BIGINT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
    status TEXT NOT NULL, admin_state_up BIGINT NOT NULL, shared BIGINT NOT NULL, router_external BIGINT NOT NULL,
    is_default BIGINT NOT NULL, mtu BIGINT NOT NULL, provider_network_type TEXT NOT NULL,
    provider_physical_network TEXT, provider_segmentation_id BIGINT,
    doc TEXT NOT NULL);
CREATE INDEX network_project ON network (project_id);
CREATE INDEX network_shared ON network (shared);
CREATE INDEX network_external ON network (router_external);

CREATE TABLE network_segment (
    network_type TEXT NOT NULL, physical_network TEXT NOT NULL, segmentation_id BIGINT NOT NULL,
    network_id TEXT NOT NULL REFERENCES network (id),
    PRIMARY KEY (network_type, physical_network, segmentation_id));
CREATE INDEX network_segment_network ON network_segment (network_id);

CREATE TABLE subnet (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, project_id TEXT NOT NULL, revision_number BIGINT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
    network_id TEXT NOT NULL REFERENCES network (id), ip_version BIGINT NOT NULL, cidr TEXT NOT NULL, gateway_ip TEXT,
    enable_dhcp BIGINT NOT NULL, ipv6_ra_mode TEXT, ipv6_address_mode TEXT, subnetpool_id TEXT,
    doc TEXT NOT NULL);
CREATE INDEX subnet_project ON subnet (project_id);
CREATE INDEX subnet_network ON subnet (network_id);

CREATE TABLE port (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, project_id TEXT NOT NULL, revision_number BIGINT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
    network_id TEXT NOT NULL REFERENCES network (id), admin_state_up BIGINT NOT NULL, status TEXT NOT NULL,
    mac_address TEXT NOT NULL, device_id TEXT NOT NULL, device_owner TEXT NOT NULL, binding_host_id TEXT NOT NULL,
    _host TEXT NOT NULL,
    doc TEXT NOT NULL);
CREATE UNIQUE INDEX port_mac ON port (network_id, mac_address);
CREATE INDEX port_project ON port (project_id);
CREATE INDEX port_device ON port (device_id);
CREATE INDEX port_host ON port (_host);

CREATE TABLE ip_allocation (
    subnet_id TEXT NOT NULL REFERENCES subnet (id), address TEXT NOT NULL,
    place BIGINT, port_id TEXT NOT NULL REFERENCES port (id),
    PRIMARY KEY (subnet_id, address));
CREATE INDEX ip_allocation_place ON ip_allocation (subnet_id, place);
CREATE INDEX ip_allocation_port ON ip_allocation (port_id);
CREATE INDEX ip_allocation_address ON ip_allocation (address);

CREATE TABLE security_group (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, project_id TEXT NOT NULL, revision_number BIGINT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
    stateful BIGINT NOT NULL,
    doc TEXT NOT NULL);
CREATE INDEX security_group_project ON security_group (project_id, name);

CREATE TABLE security_group_rule (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, project_id TEXT NOT NULL, revision_number BIGINT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
    security_group_id TEXT NOT NULL REFERENCES security_group (id), direction TEXT NOT NULL, ethertype TEXT NOT NULL,
    protocol TEXT, port_range_min BIGINT, port_range_max BIGINT, remote_ip_prefix TEXT,
    remote_group_id TEXT REFERENCES security_group (id),
    doc TEXT NOT NULL);
CREATE INDEX security_group_rule_group ON security_group_rule (security_group_id);
CREATE INDEX security_group_rule_remote ON security_group_rule (remote_group_id);
CREATE INDEX security_group_rule_project ON security_group_rule (project_id);

-- A project's group `default`, made when it is first needed.
CREATE TABLE security_group_default (
    project_id TEXT PRIMARY KEY, security_group_id TEXT NOT NULL REFERENCES security_group (id));

CREATE TABLE port_security_group (
    port_id TEXT NOT NULL REFERENCES port (id), security_group_id TEXT NOT NULL REFERENCES security_group (id),
    PRIMARY KEY (port_id, security_group_id));
CREATE INDEX port_security_group_group ON port_security_group (security_group_id);

CREATE TABLE router (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, project_id TEXT NOT NULL, revision_number BIGINT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
    status TEXT NOT NULL, admin_state_up BIGINT NOT NULL, _gateway_host TEXT NOT NULL,
    doc TEXT NOT NULL);
CREATE INDEX router_project ON router (project_id);

CREATE TABLE floatingip (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, project_id TEXT NOT NULL, revision_number BIGINT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
    status TEXT NOT NULL, floating_network_id TEXT NOT NULL REFERENCES network (id), floating_ip_address TEXT NOT NULL,
    fixed_ip_address TEXT, port_id TEXT REFERENCES port (id), router_id TEXT REFERENCES router (id),
    _floating_port TEXT NOT NULL REFERENCES port (id),
    doc TEXT NOT NULL);
CREATE INDEX floatingip_project ON floatingip (project_id);
CREATE INDEX floatingip_port ON floatingip (port_id);
CREATE INDEX floatingip_router ON floatingip (router_id);
CREATE INDEX floatingip_own_port ON floatingip (_floating_port);
CREATE INDEX floatingip_network ON floatingip (floating_network_id);

CREATE TABLE network_quota (
    project_id TEXT NOT NULL, resource TEXT NOT NULL, quota BIGINT NOT NULL,
    PRIMARY KEY (project_id, resource));

-- What each host is to have (`wanted` counts its document) and has (`applied`).
CREATE TABLE network_host (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, started_at BIGINT NOT NULL, heard_at BIGINT NOT NULL,
    wanted BIGINT NOT NULL, applied BIGINT NOT NULL, error TEXT NOT NULL);
