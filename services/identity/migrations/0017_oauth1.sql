-- OAuth 1.0a. Secrets are sealed; roles are JSON lists of ids.
CREATE TABLE oauth1_consumer (
    id TEXT PRIMARY KEY,
    description TEXT,
    sealed TEXT NOT NULL,
    extra TEXT NOT NULL
);
CREATE TABLE oauth1_request_token (
    id TEXT PRIMARY KEY,
    consumer_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    sealed TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    -- Once it is authorized.
    verifier TEXT,
    user_id TEXT,
    roles TEXT
);
CREATE INDEX oauth1_request_token_consumer ON oauth1_request_token (consumer_id);
CREATE TABLE oauth1_access_token (
    id TEXT PRIMARY KEY,
    consumer_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    sealed TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    roles TEXT NOT NULL
);
CREATE INDEX oauth1_access_token_consumer ON oauth1_access_token (consumer_id);
CREATE INDEX oauth1_access_token_user ON oauth1_access_token (user_id);
-- What was used in a signature, so that it is not used again.
CREATE TABLE oauth1_nonce (
    consumer_id TEXT NOT NULL,
    token_id TEXT NOT NULL,
    nonce TEXT NOT NULL,
    signed_at BIGINT NOT NULL,
    PRIMARY KEY (consumer_id, token_id, nonce, signed_at)
);
