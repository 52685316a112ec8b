-- What an operator says of a host.
ALTER TABLE network_host ADD COLUMN description TEXT NOT NULL DEFAULT '';
ALTER TABLE network_host ADD COLUMN closed BIGINT NOT NULL DEFAULT 0;
