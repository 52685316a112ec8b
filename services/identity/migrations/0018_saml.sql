-- Assertions that were brought: each counts once. The key is a hash of who made it and its ID.
CREATE TABLE saml_assertion_use (
    id TEXT PRIMARY KEY,
    ends_at BIGINT NOT NULL
);
CREATE INDEX saml_assertion_use_end ON saml_assertion_use (ends_at);
