-- Images whose content is kept beside the stores, in the directory that hosts take it from, or shall be.
CREATE TABLE image_cache (
    image_id TEXT PRIMARY KEY,
    cached BIGINT NOT NULL,
    size BIGINT NOT NULL,
    hits BIGINT NOT NULL,
    last_accessed BIGINT NOT NULL,
    last_modified BIGINT NOT NULL
);
