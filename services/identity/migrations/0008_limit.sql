-- No region: ''. A limit repeats what its registered limit is about, which stays as it is while there are limits of it.
CREATE TABLE registered_limit (
    id TEXT PRIMARY KEY,
    service_id TEXT NOT NULL,
    region_id TEXT NOT NULL,
    resource_name TEXT NOT NULL,
    default_limit BIGINT NOT NULL,
    description TEXT
);
CREATE UNIQUE INDEX registered_limit_about ON registered_limit (service_id, region_id, resource_name);
-- Of a project (domain_id '') or of a domain (project_id '').
CREATE TABLE unified_limit (
    id TEXT PRIMARY KEY,
    registered_limit_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    domain_id TEXT NOT NULL,
    service_id TEXT NOT NULL,
    region_id TEXT NOT NULL,
    resource_name TEXT NOT NULL,
    resource_limit BIGINT NOT NULL,
    description TEXT
);
CREATE UNIQUE INDEX unified_limit_of ON unified_limit (registered_limit_id, project_id, domain_id);
CREATE INDEX unified_limit_project ON unified_limit (project_id);
CREATE INDEX unified_limit_domain ON unified_limit (domain_id);
