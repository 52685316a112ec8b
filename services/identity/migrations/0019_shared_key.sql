-- Keys that all controllers of a shared database have; their directories are copies of this. See docs/decisions/0025-shared-keys.md.
CREATE TABLE shared_key (
    -- token, credential; jws for public keys, which are not sealed.
    repository TEXT NOT NULL,
    -- That of its file.
    name TEXT NOT NULL,
    -- Sealed with a secret that controllers have and the database has not.
    sealed TEXT NOT NULL,
    -- SHA-256 of the key: who has the key in a file knows it again.
    digest TEXT NOT NULL,
    made_at BIGINT NOT NULL,
    PRIMARY KEY (repository, name)
);
