-- How far a live migration is.
ALTER TABLE server_migration ADD COLUMN progress TEXT NOT NULL DEFAULT '{}';
