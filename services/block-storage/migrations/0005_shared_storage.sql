-- Volumes in storage that several hosts see: which; none: on the disk of their host.
ALTER TABLE volume ADD COLUMN storage TEXT;
CREATE INDEX volume_storage ON volume (storage);
-- How a host that must have nothing of such a volume any more is to remove its files; none: it only lets go of them.
ALTER TABLE volume_tombstone ADD COLUMN stored TEXT;
-- It is certain that the host has ended the guests that may run elsewhere, and it has not been admitted since.
ALTER TABLE volume_host ADD COLUMN fenced BIGINT NOT NULL DEFAULT 0;
