CREATE TABLE host (
    uuid TEXT PRIMARY KEY,
    number BIGINT NOT NULL,
    hostname TEXT NOT NULL,
    personality TEXT NOT NULL,
    subfunctions TEXT NOT NULL,
    mgmt_ip TEXT NOT NULL,
    administrative TEXT NOT NULL,
    connected BIGINT NOT NULL,
    provisioned BIGINT NOT NULL,
    deleted BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX host_hostname ON host (hostname) WHERE deleted = 0;
CREATE UNIQUE INDEX host_number ON host (number);

CREATE TABLE join_token (
    id TEXT PRIMARY KEY,
    secret_hash TEXT NOT NULL,
    hostname TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    used_at BIGINT,
    used_for TEXT NOT NULL,
    used_by TEXT NOT NULL
);
