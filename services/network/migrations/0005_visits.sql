-- Hosts that have a port ready beside the one it is bound to: its guest is on its way there.
CREATE TABLE port_visit (
    port_id TEXT NOT NULL,
    host_id TEXT NOT NULL,
    PRIMARY KEY (port_id, host_id)
);
CREATE INDEX port_visit_host ON port_visit (host_id);
