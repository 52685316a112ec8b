ALTER TABLE compute_node ADD COLUMN lost BIGINT NOT NULL DEFAULT 0;

CREATE TABLE guest_lease (
    server_id TEXT PRIMARY KEY,
    host_id TEXT NOT NULL
);
