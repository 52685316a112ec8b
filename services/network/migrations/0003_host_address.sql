-- The host's end of tunnels; empty: it has none.
ALTER TABLE network_host ADD COLUMN address TEXT NOT NULL DEFAULT '';
