ALTER TABLE alarm ADD COLUMN held_at BIGINT;
ALTER TABLE alarm ADD COLUMN cleared BIGINT NOT NULL DEFAULT 0;
ALTER TABLE alarm ADD COLUMN worst BIGINT NOT NULL DEFAULT 0;
CREATE INDEX alarm_held ON alarm (held_at) WHERE held_at IS NOT NULL;
CREATE TABLE alarm_flap (
    alarm_id TEXT NOT NULL,
    entity_instance_id TEXT NOT NULL,
    clears TEXT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (alarm_id, entity_instance_id)
);
CREATE INDEX alarm_flap_time ON alarm_flap (changed_at);
