-- Users whom an identity provider knows. The name of one who has no other life here need not be the only one of its kind.
ALTER TABLE identity_user ADD COLUMN is_shadow BIGINT NOT NULL DEFAULT 0;
DROP INDEX identity_user_name;
CREATE UNIQUE INDEX identity_user_name ON identity_user (domain_id, name) WHERE is_shadow = 0;
CREATE TABLE federated_user (
    idp_id TEXT NOT NULL,
    protocol_id TEXT NOT NULL,
    unique_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    PRIMARY KEY (idp_id, protocol_id, unique_id)
);
CREATE INDEX federated_user_user ON federated_user (user_id);
-- Memberships that an identity provider told of; they hold while they are here, which is at most a minute longer than they should.
CREATE TABLE expiring_membership (
    user_id TEXT NOT NULL,
    group_id TEXT NOT NULL,
    idp_id TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, group_id, idp_id)
);
CREATE INDEX expiring_membership_group ON expiring_membership (group_id);
CREATE INDEX expiring_membership_expiry ON expiring_membership (expires_at);
