CREATE TABLE ha_segment (
    uuid TEXT PRIMARY KEY,
    id BIGINT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    recovery_method TEXT NOT NULL,
    service_type TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);
CREATE UNIQUE INDEX ha_segment_name ON ha_segment (name);
CREATE UNIQUE INDEX ha_segment_id ON ha_segment (id);

CREATE TABLE ha_host (
    uuid TEXT PRIMARY KEY,
    id BIGINT NOT NULL,
    segment_uuid TEXT NOT NULL,
    name TEXT NOT NULL,
    type TEXT,
    control_attributes TEXT,
    reserved BIGINT NOT NULL,
    on_maintenance BIGINT NOT NULL,
    -- Its present loss has a notification.
    noticed BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);
CREATE UNIQUE INDEX ha_host_name ON ha_host (name);
CREATE UNIQUE INDEX ha_host_id ON ha_host (id);
CREATE INDEX ha_host_segment ON ha_host (segment_uuid, created_at);

CREATE TABLE ha_notification (
    uuid TEXT PRIMARY KEY,
    id BIGINT NOT NULL,
    segment_uuid TEXT NOT NULL,
    source_host_uuid TEXT NOT NULL,
    -- The source's name, which it is still known by when it has left its segment.
    hostname TEXT NOT NULL,
    type TEXT NOT NULL,
    generated_time BIGINT NOT NULL,
    payload TEXT NOT NULL,
    status TEXT NOT NULL,
    message TEXT,
    -- What was done about it, as JSON.
    details TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);
CREATE UNIQUE INDEX ha_notification_id ON ha_notification (id);
CREATE INDEX ha_notification_created ON ha_notification (created_at);
CREATE INDEX ha_notification_source ON ha_notification (source_host_uuid, type, created_at);
CREATE INDEX ha_notification_status ON ha_notification (status);

CREATE TABLE ha_vmove (
    uuid TEXT PRIMARY KEY,
    id BIGINT NOT NULL,
    notification_uuid TEXT NOT NULL,
    instance_uuid TEXT NOT NULL,
    instance_name TEXT NOT NULL,
    source_host TEXT NOT NULL,
    dest_host TEXT,
    start_time BIGINT,
    end_time BIGINT,
    type TEXT NOT NULL,
    status TEXT NOT NULL,
    message TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);
CREATE UNIQUE INDEX ha_vmove_id ON ha_vmove (id);
CREATE INDEX ha_vmove_notification ON ha_vmove (notification_uuid, created_at);
