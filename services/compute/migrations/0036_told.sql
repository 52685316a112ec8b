-- The state of a host's service and hypervisor that was logged last.
ALTER TABLE compute_node ADD COLUMN told TEXT NOT NULL DEFAULT '';
