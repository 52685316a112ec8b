-- What moved servers, or changed their size.
CREATE TABLE server_migration (
    id BIGINT PRIMARY KEY,
    uuid TEXT NOT NULL,
    server_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    source TEXT,
    dest TEXT,
    user_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX server_migration_uuid ON server_migration (uuid);
CREATE INDEX server_migration_server ON server_migration (server_id);
CREATE INDEX server_migration_time ON server_migration (created_at, id);
