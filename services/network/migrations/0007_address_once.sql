-- An address is one host's: the first that had it keeps it.
UPDATE network_host SET address = '' WHERE address <> '' AND EXISTS (
    SELECT 1 FROM network_host o WHERE o.address = network_host.address
    AND (o.started_at < network_host.started_at OR (o.started_at = network_host.started_at AND o.id < network_host.id))
);
CREATE UNIQUE INDEX network_host_address ON network_host (address) WHERE address <> '';
