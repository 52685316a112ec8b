-- filters: a JSON object of service_id, region_id and interface.
CREATE TABLE endpoint_group (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    description TEXT,
    filters TEXT NOT NULL
);
CREATE TABLE project_endpoint (
    project_id TEXT NOT NULL,
    endpoint_id TEXT NOT NULL,
    PRIMARY KEY (project_id, endpoint_id)
);
CREATE INDEX project_endpoint_endpoint ON project_endpoint (endpoint_id);
CREATE TABLE project_endpoint_group (
    project_id TEXT NOT NULL,
    endpoint_group_id TEXT NOT NULL,
    PRIMARY KEY (project_id, endpoint_group_id)
);
CREATE INDEX project_endpoint_group_group ON project_endpoint_group (endpoint_group_id);
-- Of an endpoint, of a service, or of a service in a region; what it is not of is ''.
CREATE TABLE policy_association (
    endpoint_id TEXT NOT NULL,
    service_id TEXT NOT NULL,
    region_id TEXT NOT NULL,
    policy_id TEXT NOT NULL,
    PRIMARY KEY (endpoint_id, service_id, region_id)
);
CREATE INDEX policy_association_policy ON policy_association (policy_id);
