ALTER TABLE volume ADD COLUMN group_id TEXT;
CREATE INDEX volume_in_group ON volume (group_id);
ALTER TABLE volume_snapshot ADD COLUMN group_snapshot_id TEXT;
CREATE INDEX volume_snapshot_in_group ON volume_snapshot (group_snapshot_id);

CREATE TABLE volume_group_type (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    description TEXT,
    is_public BIGINT NOT NULL,
    specs TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX volume_group_type_name ON volume_group_type (name);

CREATE TABLE volume_group (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    name TEXT,
    description TEXT,
    status TEXT NOT NULL,
    group_type_id TEXT NOT NULL,
    availability_zone TEXT NOT NULL,
    -- Ids of volume types, as JSON.
    volume_types TEXT NOT NULL,
    group_snapshot_id TEXT,
    source_group_id TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX volume_group_project ON volume_group (project_id, created_at);
CREATE INDEX volume_group_created ON volume_group (created_at, id);

CREATE TABLE volume_group_snapshot (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    group_id TEXT NOT NULL,
    group_type_id TEXT NOT NULL,
    name TEXT,
    description TEXT,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX volume_group_snapshot_group ON volume_group_snapshot (group_id);
CREATE INDEX volume_group_snapshot_project ON volume_group_snapshot (project_id, created_at);
CREATE INDEX volume_group_snapshot_created ON volume_group_snapshot (created_at, id);
