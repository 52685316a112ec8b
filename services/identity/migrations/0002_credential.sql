-- The blob is sealed with a key of keys/credential.
CREATE TABLE credential (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    project_id TEXT,
    type TEXT NOT NULL,
    sealed TEXT NOT NULL,
    extra TEXT NOT NULL
);
CREATE INDEX credential_user ON credential (user_id, type);
CREATE INDEX credential_project ON credential (project_id);
