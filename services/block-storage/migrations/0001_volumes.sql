CREATE TABLE volume (
    id TEXT PRIMARY KEY,
    generation BIGINT NOT NULL,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    display_name TEXT,
    display_description TEXT,
    status TEXT NOT NULL,
    size BIGINT NOT NULL,
    volume_type_id TEXT,
    availability_zone TEXT NOT NULL,
    -- The host that keeps it, or shall keep it.
    host_id TEXT,
    host TEXT,
    bootable BIGINT NOT NULL,
    multiattach BIGINT NOT NULL,
    snapshot_id TEXT,
    source_volid TEXT,
    migration_status TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    -- Of the host's document.
    spec_generation BIGINT NOT NULL,
    doc TEXT NOT NULL
);
CREATE INDEX volume_project ON volume (project_id, created_at);
CREATE INDEX volume_created ON volume (created_at, id);
CREATE INDEX volume_on_host ON volume (host_id);
CREATE INDEX volume_type_of ON volume (volume_type_id);

CREATE TABLE volume_metadata (
    volume_id TEXT NOT NULL,
    -- `user` or `image`
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (volume_id, kind, name)
);
CREATE INDEX volume_metadata_value ON volume_metadata (kind, name, value);

CREATE TABLE volume_snapshot (
    id TEXT PRIMARY KEY,
    generation BIGINT NOT NULL,
    volume_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    display_name TEXT,
    display_description TEXT,
    status TEXT NOT NULL,
    size BIGINT NOT NULL,
    progress TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    doc TEXT NOT NULL
);
CREATE INDEX volume_snapshot_volume ON volume_snapshot (volume_id);
CREATE INDEX volume_snapshot_project ON volume_snapshot (project_id, created_at);
CREATE INDEX volume_snapshot_created ON volume_snapshot (created_at, id);

CREATE TABLE volume_attachment (
    id TEXT PRIMARY KEY,
    volume_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    instance_uuid TEXT,
    attached_host TEXT,
    mountpoint TEXT,
    attach_mode TEXT NOT NULL,
    attach_status TEXT NOT NULL,
    attached_at BIGINT,
    created_at BIGINT NOT NULL,
    doc TEXT NOT NULL
);
CREATE INDEX volume_attachment_volume ON volume_attachment (volume_id);
CREATE INDEX volume_attachment_instance ON volume_attachment (instance_uuid);

-- Attachments that compute made and will end itself.
CREATE TABLE volume_server (attachment_id TEXT PRIMARY KEY);

-- Volumes that must be gone from a host but have not been reported gone.
CREATE TABLE volume_tombstone (
    host_id TEXT NOT NULL,
    volume_id TEXT NOT NULL,
    generation BIGINT NOT NULL,
    PRIMARY KEY (host_id, volume_id)
);

CREATE TABLE volume_type (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    description TEXT,
    is_public BIGINT NOT NULL,
    qos_specs_id TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    doc TEXT NOT NULL
);
CREATE UNIQUE INDEX volume_type_name ON volume_type (name);

CREATE TABLE volume_type_access (
    type_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    PRIMARY KEY (type_id, project_id)
);

CREATE TABLE volume_qos (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    consumer TEXT NOT NULL,
    specs TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX volume_qos_name ON volume_qos (name);

CREATE TABLE volume_transfer (
    id TEXT PRIMARY KEY,
    volume_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    name TEXT,
    salt TEXT NOT NULL,
    secret TEXT NOT NULL,
    no_snapshots BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX volume_transfer_volume ON volume_transfer (volume_id);

CREATE TABLE volume_quota (
    project_id TEXT NOT NULL,
    resource TEXT NOT NULL,
    hard_limit BIGINT NOT NULL,
    PRIMARY KEY (project_id, resource)
);

CREATE TABLE volume_quota_class (
    class TEXT NOT NULL,
    resource TEXT NOT NULL,
    hard_limit BIGINT NOT NULL,
    PRIMARY KEY (class, resource)
);

CREATE TABLE volume_host (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    connected BIGINT NOT NULL,
    disabled BIGINT NOT NULL,
    disabled_reason TEXT,
    info TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);
