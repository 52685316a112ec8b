-- Where the content of an image is. Stores that name content by its hash need no address of their own.
CREATE TABLE image_location (
    image_id TEXT NOT NULL,
    store TEXT NOT NULL,
    url TEXT NOT NULL,
    metadata TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (image_id, store, url)
);
CREATE INDEX image_location_store ON image_location (store);
INSERT INTO image_location (image_id, store, url, metadata, position) SELECT id, 'local', '', '{}', 0 FROM image WHERE sha256 IS NOT NULL;

-- Content that waits to be imported.
CREATE TABLE image_staged (
    image_id TEXT PRIMARY KEY,
    file TEXT NOT NULL,
    size BIGINT NOT NULL
);

CREATE TABLE image_task (
    id TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    status TEXT NOT NULL,
    owner TEXT NOT NULL,
    image_id TEXT,
    user_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    input TEXT NOT NULL,
    result TEXT,
    message TEXT NOT NULL,
    -- SHA-256 of content that is being brought, kept from being tidied away.
    content TEXT,
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX image_task_image ON image_task (image_id);
CREATE INDEX image_task_created ON image_task (created_at, id);
CREATE INDEX image_task_expires ON image_task (expires_at) WHERE expires_at IS NOT NULL;
