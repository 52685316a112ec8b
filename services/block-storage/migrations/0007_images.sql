-- Volumes that hold images, each of a store of the image service.
CREATE TABLE volume_image (
    volume_id TEXT PRIMARY KEY,
    store TEXT NOT NULL,
    image_id TEXT NOT NULL,
    -- The upload or import that brings it, and whether it has come to its end.
    upload TEXT NOT NULL,
    whole BIGINT NOT NULL,
    -- Of the image: bytes, and their hash.
    size BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    -- What is frozen on the host, of which copies are made and from which is read.
    snapshot TEXT NOT NULL,
    -- The export by which it is being read.
    reader TEXT
);
CREATE INDEX volume_image_store ON volume_image (store, image_id);
CREATE INDEX volume_image_sha256 ON volume_image (sha256);
CREATE INDEX volume_image_upload ON volume_image (upload);
CREATE INDEX volume_image_reader ON volume_image (reader);
