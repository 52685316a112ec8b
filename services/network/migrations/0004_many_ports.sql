-- Which hosts a change concerns is found without looking at every port of a network or a group.
ALTER TABLE port_security_group ADD COLUMN _host TEXT NOT NULL DEFAULT '';
UPDATE port_security_group SET _host = (SELECT p._host FROM port p WHERE p.id = port_security_group.port_id);
DROP INDEX port_security_group_group;
CREATE INDEX port_security_group_host ON port_security_group (security_group_id, _host);
-- The same index tells all that a host's report is compared with.
DROP INDEX port_host;
CREATE INDEX port_host ON port (_host, network_id, status, admin_state_up, device_owner, id);
CREATE INDEX port_owner ON port (network_id, device_owner);
