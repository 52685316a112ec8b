-- The version of everything placement holds, and at which one each provider last changed. Rows stay when providers go.
CREATE TABLE provider_change (
    provider TEXT PRIMARY KEY,
    version BIGINT NOT NULL
);
CREATE UNIQUE INDEX provider_change_version ON provider_change (version);
