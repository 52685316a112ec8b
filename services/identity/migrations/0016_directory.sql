-- Users and groups that were seen in a domain's directory. kind: user, group. The id is the hash of the three columns behind it.
CREATE TABLE directory_entry (
    id TEXT PRIMARY KEY,
    domain_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    local_id TEXT NOT NULL,
    dn TEXT NOT NULL
);
CREATE INDEX directory_entry_domain ON directory_entry (domain_id, kind);
