-- The public key of the host's encrypted tunnels; empty: it has none.
ALTER TABLE network_host ADD COLUMN tunnel_key TEXT NOT NULL DEFAULT '';
-- One row while traffic between hosts is encrypted: the UDP port, and the MTU of the underlying network.
CREATE TABLE network_encryption (
    port BIGINT NOT NULL,
    mtu BIGINT NOT NULL
);
