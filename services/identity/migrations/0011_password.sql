-- Times in microseconds. password_by_self: whether the user chose the present password.
ALTER TABLE identity_user ADD COLUMN created_at BIGINT;
ALTER TABLE identity_user ADD COLUMN last_active_at BIGINT;
ALTER TABLE identity_user ADD COLUMN password_created_at BIGINT;
ALTER TABLE identity_user ADD COLUMN password_expires_at BIGINT;
ALTER TABLE identity_user ADD COLUMN password_by_self BIGINT NOT NULL DEFAULT 0;
ALTER TABLE identity_user ADD COLUMN failed_count BIGINT NOT NULL DEFAULT 0;
ALTER TABLE identity_user ADD COLUMN failed_at BIGINT;
-- Hashes of passwords that were, for users who may not take one of them again.
CREATE TABLE password_history (
    user_id TEXT NOT NULL,
    ended_at BIGINT NOT NULL,
    password_hash TEXT NOT NULL
);
CREATE INDEX password_history_user ON password_history (user_id, ended_at);
