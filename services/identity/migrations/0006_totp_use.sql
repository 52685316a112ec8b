-- The last time step whose code was accepted, by credential: no code counts twice.
CREATE TABLE totp_use (
    credential_id TEXT PRIMARY KEY,
    step BIGINT NOT NULL
);
