-- No project: the trust gives no token. remaining_uses NULL: as many tokens as one likes.
CREATE TABLE trust (
    id TEXT PRIMARY KEY,
    trustor_user_id TEXT NOT NULL,
    trustee_user_id TEXT NOT NULL,
    project_id TEXT,
    impersonation BIGINT NOT NULL,
    expires_at BIGINT,
    remaining_uses BIGINT,
    redelegated_trust_id TEXT,
    redelegation_count BIGINT NOT NULL,
    extra TEXT NOT NULL
);
CREATE UNIQUE INDEX trust_same ON trust (trustor_user_id, trustee_user_id, project_id, impersonation, expires_at);
CREATE INDEX trust_trustee ON trust (trustee_user_id);
CREATE INDEX trust_project ON trust (project_id);
CREATE INDEX trust_parent ON trust (redelegated_trust_id);
CREATE INDEX trust_expiry ON trust (expires_at);
CREATE TABLE trust_role (
    trust_id TEXT NOT NULL,
    role_id TEXT NOT NULL,
    PRIMARY KEY (trust_id, role_id)
);
