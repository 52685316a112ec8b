-- Volumes that go to another host with the server that has them open: where they are going.
CREATE TABLE volume_visit (
    volume_id TEXT PRIMARY KEY,
    host_id TEXT NOT NULL
);
CREATE INDEX volume_visit_host ON volume_visit (host_id);
