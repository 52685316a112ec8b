CREATE TABLE server (
    id TEXT PRIMARY KEY,
    generation BIGINT NOT NULL,
    number BIGINT NOT NULL,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    display_name TEXT NOT NULL,
    display_description TEXT,
    hostname TEXT NOT NULL,
    vm_state TEXT NOT NULL,
    task_state TEXT,
    power_state BIGINT NOT NULL,
    host_id TEXT,
    host TEXT,
    node TEXT,
    availability_zone TEXT,
    image_ref TEXT NOT NULL,
    flavor_id TEXT NOT NULL,
    vcpus BIGINT NOT NULL,
    memory_mb BIGINT NOT NULL,
    key_name TEXT,
    config_drive TEXT NOT NULL,
    reservation_id TEXT NOT NULL,
    launch_index BIGINT NOT NULL,
    root_device_name TEXT,
    locked_by TEXT,
    access_ip_v4 TEXT,
    access_ip_v6 TEXT,
    auto_disk_config BIGINT NOT NULL,
    progress BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    launched_at BIGINT,
    terminated_at BIGINT,
    deleted BIGINT NOT NULL,
    wanted TEXT NOT NULL,
    spec_generation BIGINT NOT NULL,
    boot BIGINT NOT NULL,
    doc TEXT NOT NULL
);
CREATE INDEX server_project ON server (project_id, deleted, created_at);
CREATE INDEX server_host ON server (host_id, deleted);
CREATE INDEX server_created ON server (deleted, created_at, id);
CREATE INDEX server_updated ON server (updated_at);
CREATE INDEX server_reservation ON server (reservation_id);

CREATE TABLE server_number (one BIGINT PRIMARY KEY, last BIGINT NOT NULL);
INSERT INTO server_number (one, last) VALUES (1, 0);

CREATE TABLE server_tag (
    server_id TEXT NOT NULL,
    tag TEXT NOT NULL,
    PRIMARY KEY (server_id, tag)
);
CREATE INDEX server_tag_tag ON server_tag (tag);

CREATE TABLE server_fault (
    server_id TEXT PRIMARY KEY,
    code BIGINT NOT NULL,
    message TEXT NOT NULL,
    details TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE server_action (
    server_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    action TEXT NOT NULL,
    user_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    message TEXT,
    started_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (server_id, request_id)
);
CREATE INDEX server_action_time ON server_action (server_id, updated_at);

CREATE TABLE server_action_event (
    server_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    place BIGINT NOT NULL,
    event TEXT NOT NULL,
    host TEXT,
    started_at BIGINT NOT NULL,
    finished_at BIGINT,
    result TEXT,
    details TEXT,
    PRIMARY KEY (server_id, request_id, place)
);

CREATE TABLE host_event (
    host_id TEXT PRIMARY KEY,
    stored BIGINT NOT NULL
);

CREATE TABLE compute_node (
    id TEXT PRIMARY KEY,
    number BIGINT NOT NULL,
    service_id TEXT NOT NULL,
    name TEXT NOT NULL,
    info TEXT NOT NULL,
    connected BIGINT NOT NULL,
    disabled BIGINT NOT NULL,
    disabled_reason TEXT,
    forced_down BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    service_updated_at BIGINT
);
CREATE UNIQUE INDEX compute_node_name ON compute_node (name);

CREATE TABLE instance_tombstone (
    host_id TEXT NOT NULL,
    server_id TEXT NOT NULL,
    generation BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (host_id, server_id)
);
