CREATE TABLE policy_blob (
    id TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    blob_text TEXT NOT NULL,
    extra TEXT NOT NULL
);
CREATE INDEX policy_blob_type ON policy_blob (type);
