-- Servers that are in some condition besides running: of thousands few, or all on purpose.
CREATE INDEX server_condition ON server (id) WHERE vm_state NOT IN ('active', 'deleted') OR task_state IS NOT NULL;
