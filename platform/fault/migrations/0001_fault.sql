CREATE TABLE alarm (
    id BIGINT PRIMARY KEY,
    uuid TEXT NOT NULL,
    alarm_id TEXT NOT NULL,
    entity_type_id TEXT NOT NULL,
    entity_instance_id TEXT NOT NULL,
    raised_at BIGINT NOT NULL,
    severity BIGINT NOT NULL,
    alarm_type TEXT NOT NULL,
    probable_cause TEXT NOT NULL,
    reason_text TEXT NOT NULL,
    proposed_repair_action TEXT NOT NULL,
    service_affecting BIGINT NOT NULL,
    suppression BIGINT NOT NULL,
    inhibit_alarms BIGINT NOT NULL,
    masked BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX alarm_uuid ON alarm (uuid);
CREATE UNIQUE INDEX alarm_key ON alarm (alarm_id, entity_instance_id);
CREATE TABLE event_log (
    id BIGINT PRIMARY KEY,
    uuid TEXT NOT NULL,
    event_log_id TEXT NOT NULL,
    state TEXT NOT NULL,
    entity_type_id TEXT NOT NULL,
    entity_instance_id TEXT NOT NULL,
    raised_at BIGINT NOT NULL,
    severity BIGINT NOT NULL,
    event_log_type TEXT NOT NULL,
    probable_cause TEXT NOT NULL,
    reason_text TEXT NOT NULL,
    proposed_repair_action TEXT NOT NULL,
    service_affecting BIGINT NOT NULL,
    suppression BIGINT NOT NULL
);
CREATE UNIQUE INDEX event_log_uuid ON event_log (uuid);
CREATE INDEX event_log_time ON event_log (raised_at, id);
CREATE TABLE event_suppression (
    alarm_id TEXT PRIMARY KEY,
    uuid TEXT NOT NULL,
    suppressed BIGINT NOT NULL
);
CREATE UNIQUE INDEX event_suppression_uuid ON event_suppression (uuid);
