CREATE TABLE service_parameter (
    uuid TEXT PRIMARY KEY,
    service TEXT NOT NULL,
    section TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    applied TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX service_parameter_name ON service_parameter (service, section, name);
