CREATE TABLE image (
    id TEXT PRIMARY KEY,
    name TEXT,
    status TEXT NOT NULL,
    visibility TEXT NOT NULL,
    owner TEXT,
    protected BIGINT NOT NULL,
    os_hidden BIGINT NOT NULL,
    disk_format TEXT,
    container_format TEXT,
    min_disk BIGINT NOT NULL,
    min_ram BIGINT NOT NULL,
    size BIGINT,
    virtual_size BIGINT,
    checksum TEXT,
    os_hash_algo TEXT,
    os_hash_value TEXT,
    -- Name of the content file; several images may share one.
    sha256 TEXT,
    -- The upload under way and when it last gave a sign of life.
    upload TEXT,
    upload_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    generation BIGINT NOT NULL
);
CREATE INDEX image_owner ON image (owner, created_at);
CREATE INDEX image_visibility ON image (visibility);
CREATE INDEX image_name ON image (name);
CREATE INDEX image_sha256 ON image (sha256);
CREATE INDEX image_upload ON image (upload);

CREATE TABLE image_property (
    image_id TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (image_id, name)
);
CREATE INDEX image_property_value ON image_property (name, value);

CREATE TABLE image_tag (
    image_id TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (image_id, value)
);
CREATE INDEX image_tag_value ON image_tag (value);

CREATE TABLE image_member (
    image_id TEXT NOT NULL,
    member TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (image_id, member)
);
CREATE INDEX image_member_of ON image_member (member, status);
