-- Places for volumes and the providers that placement knows them as, with the settings that their inventories were last made of.
CREATE TABLE volume_pool (
    -- The host whose disk it is, or the storage that several hosts see.
    id TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    allocation_ratio DOUBLE PRECISION NOT NULL,
    -- Percent of the whole.
    reserved BIGINT NOT NULL
);
