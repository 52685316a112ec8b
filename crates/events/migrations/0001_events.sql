CREATE TABLE event (
    seq BIGINT PRIMARY KEY,
    message_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    priority TEXT NOT NULL,
    publisher TEXT NOT NULL,
    payload TEXT NOT NULL,
    recorded_at BIGINT NOT NULL
);
CREATE INDEX event_resource ON event (resource_id, seq);
CREATE TABLE event_counter (name TEXT PRIMARY KEY, value BIGINT NOT NULL);
INSERT INTO event_counter (name, value) VALUES ('seq', 0);
CREATE TABLE event_cursor (consumer TEXT PRIMARY KEY, position BIGINT NOT NULL, updated_at BIGINT NOT NULL);
