-- secret: `$sha256$` and the hash of one that we made, or the slow hash of one that the user chose. Roles are ids, implied ones included.
CREATE TABLE application_credential (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    secret TEXT NOT NULL,
    expires_at BIGINT,
    unrestricted BIGINT NOT NULL
);
CREATE UNIQUE INDEX application_credential_name ON application_credential (user_id, name);
CREATE INDEX application_credential_project ON application_credential (project_id);
CREATE INDEX application_credential_expiry ON application_credential (expires_at);
CREATE TABLE application_credential_role (
    application_credential_id TEXT NOT NULL,
    role_id TEXT NOT NULL,
    PRIMARY KEY (application_credential_id, role_id)
);
CREATE INDEX application_credential_role_role ON application_credential_role (role_id);
CREATE TABLE access_rule (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    service TEXT NOT NULL,
    path TEXT NOT NULL,
    method TEXT NOT NULL
);
CREATE UNIQUE INDEX access_rule_same ON access_rule (user_id, service, path, method);
CREATE TABLE application_credential_access_rule (
    application_credential_id TEXT NOT NULL,
    access_rule_id TEXT NOT NULL,
    PRIMARY KEY (application_credential_id, access_rule_id)
);
CREATE INDEX application_credential_access_rule_rule ON application_credential_access_rule (access_rule_id);
