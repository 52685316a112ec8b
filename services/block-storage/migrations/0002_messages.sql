-- A frozen host keeps what it has, and neither gets more nor loses any of it.
ALTER TABLE volume_host ADD COLUMN frozen BIGINT NOT NULL DEFAULT 0;

CREATE TABLE volume_message (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    -- Number of what was done, and of what came of it.
    action TEXT NOT NULL,
    detail TEXT NOT NULL,
    event_id TEXT NOT NULL,
    message_level TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    resource_uuid TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX volume_message_project ON volume_message (project_id, created_at);
CREATE INDEX volume_message_created ON volume_message (created_at, id);
