CREATE TABLE identity_provider (
    id TEXT PRIMARY KEY,
    domain_id TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    description TEXT,
    -- Minutes; NULL: what the configuration says.
    authorization_ttl BIGINT
);
CREATE INDEX identity_provider_domain ON identity_provider (domain_id);
CREATE TABLE identity_provider_remote (
    remote_id TEXT PRIMARY KEY,
    idp_id TEXT NOT NULL
);
CREATE INDEX identity_provider_remote_idp ON identity_provider_remote (idp_id);
CREATE TABLE federation_protocol (
    idp_id TEXT NOT NULL,
    id TEXT NOT NULL,
    mapping_id TEXT NOT NULL,
    remote_id_attribute TEXT,
    PRIMARY KEY (idp_id, id)
);
CREATE TABLE federation_mapping (
    id TEXT PRIMARY KEY,
    schema_version TEXT NOT NULL,
    rules TEXT NOT NULL
);
CREATE TABLE service_provider (
    id TEXT PRIMARY KEY,
    enabled BIGINT NOT NULL,
    description TEXT,
    auth_url TEXT NOT NULL,
    sp_url TEXT NOT NULL,
    relay_state_prefix TEXT NOT NULL
);
