-- Volumes of servers: those they have, those they shall get when they are built, those they let go of.
CREATE TABLE server_volume (
    id TEXT PRIMARY KEY,
    server_id TEXT NOT NULL,
    place BIGINT NOT NULL,
    -- None: made when the server is built.
    volume_id TEXT,
    attachment_id TEXT,
    -- `planned`, `attached`, `detaching`
    state TEXT NOT NULL,
    device TEXT NOT NULL,
    boot_index BIGINT,
    delete_on_termination BIGINT NOT NULL,
    tag TEXT,
    doc TEXT NOT NULL
);
CREATE INDEX server_volume_server ON server_volume (server_id, place);
CREATE INDEX server_volume_volume ON server_volume (volume_id);
