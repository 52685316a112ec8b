CREATE TABLE metadef_namespace (
    id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL UNIQUE,
    display_name TEXT,
    description TEXT,
    visibility TEXT NOT NULL,
    protected BIGINT NOT NULL,
    owner TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    -- Counts changes of the namespace and of what is in it.
    generation BIGINT NOT NULL
);
CREATE INDEX metadef_namespace_created ON metadef_namespace (created_at, id);

-- Objects, properties, tags and associations with resource types.
CREATE TABLE metadef_item (
    namespace_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (namespace_id, kind, name)
);
CREATE INDEX metadef_item_name ON metadef_item (kind, name);

-- Every type of resource that a namespace has ever been associated with.
CREATE TABLE metadef_resource_type (
    name TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- Which standard definitions have been loaded; the name '' stands for all of them.
CREATE TABLE metadef_standard (
    namespace TEXT PRIMARY KEY,
    digest TEXT NOT NULL
);
