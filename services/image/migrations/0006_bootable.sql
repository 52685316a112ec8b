-- What the content was found to be, whatever `disk_format` says; null: not inspected.
ALTER TABLE image ADD COLUMN content_format TEXT;
-- Content of images that hosts can lay no disk over, as qcow2: made once, kept in the local store while any image has the source.
CREATE TABLE image_converted (
    source TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL,
    virtual_size BIGINT NOT NULL
);
