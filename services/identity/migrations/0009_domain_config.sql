-- value: JSON, sealed with a key of keys/credential where sensitive = 1.
CREATE TABLE domain_config (
    domain_id TEXT NOT NULL,
    group_name TEXT NOT NULL,
    option_name TEXT NOT NULL,
    sensitive BIGINT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (domain_id, group_name, option_name)
);
