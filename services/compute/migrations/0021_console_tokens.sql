CREATE TABLE console_token (
    hash TEXT PRIMARY KEY,
    server_id TEXT NOT NULL,
    host_id TEXT NOT NULL,
    host TEXT NOT NULL,
    kind TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX console_token_server ON console_token (server_id);
CREATE INDEX console_token_expires ON console_token (expires_at);
