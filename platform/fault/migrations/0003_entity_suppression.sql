CREATE TABLE entity_suppression (
    id BIGINT PRIMARY KEY,
    uuid TEXT NOT NULL,
    alarm_id TEXT NOT NULL,
    entity_pattern TEXT NOT NULL,
    likeness TEXT NOT NULL,
    owner TEXT NOT NULL,
    comment TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);
CREATE UNIQUE INDEX entity_suppression_uuid ON entity_suppression (uuid);
CREATE UNIQUE INDEX entity_suppression_key ON entity_suppression (alarm_id, entity_pattern);
