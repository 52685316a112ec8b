-- Pages of one project in their order, also among servers that were made in one instant, and those of one state.
DROP INDEX server_project;
CREATE INDEX server_project ON server (project_id, deleted, created_at, id);
CREATE INDEX server_state ON server (project_id, vm_state, deleted, created_at, id);
