CREATE TABLE sensor_group (
    uuid TEXT PRIMARY KEY,
    host_id TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    doc TEXT NOT NULL
);
CREATE UNIQUE INDEX sensor_group_host ON sensor_group (host_id, name);

CREATE TABLE sensor (
    uuid TEXT PRIMARY KEY,
    host_id TEXT NOT NULL,
    group_id TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    doc TEXT NOT NULL
);
CREATE UNIQUE INDEX sensor_host ON sensor (host_id, name);

ALTER TABLE host ADD COLUMN hot BIGINT NOT NULL DEFAULT 0;
