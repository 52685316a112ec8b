CREATE TABLE provider (
    uuid TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    generation BIGINT NOT NULL,
    parent TEXT,
    root TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX provider_name ON provider (name);
CREATE INDEX provider_root ON provider (root);
CREATE TABLE inventory (
    provider TEXT NOT NULL REFERENCES provider (uuid),
    class TEXT NOT NULL,
    total BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    min_unit BIGINT NOT NULL,
    max_unit BIGINT NOT NULL,
    step_size BIGINT NOT NULL,
    allocation_ratio DOUBLE PRECISION NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (provider, class)
);
CREATE TABLE provider_trait (
    provider TEXT NOT NULL REFERENCES provider (uuid),
    trait TEXT NOT NULL,
    PRIMARY KEY (provider, trait)
);
CREATE INDEX provider_trait_trait ON provider_trait (trait);
CREATE TABLE provider_aggregate (
    provider TEXT NOT NULL REFERENCES provider (uuid),
    aggregate TEXT NOT NULL,
    PRIMARY KEY (provider, aggregate)
);
CREATE TABLE custom_trait (
    name TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL
);
CREATE TABLE custom_class (
    name TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL
);
CREATE TABLE consumer (
    uuid TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    generation BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE allocation (
    consumer TEXT NOT NULL REFERENCES consumer (uuid),
    provider TEXT NOT NULL REFERENCES provider (uuid),
    class TEXT NOT NULL,
    used BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (consumer, provider, class)
);
CREATE INDEX allocation_provider ON allocation (provider, class);
