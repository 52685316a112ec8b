CREATE TABLE operation (
    id TEXT PRIMARY KEY,
    seq BIGINT NOT NULL,
    kind TEXT NOT NULL,
    resource_kind TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    state TEXT NOT NULL,
    step TEXT NOT NULL,
    progress BIGINT NOT NULL,
    cancel BIGINT NOT NULL,
    params TEXT NOT NULL,
    context TEXT NOT NULL,
    journal TEXT NOT NULL,
    error TEXT,
    error_detail TEXT,
    owner TEXT,
    epoch BIGINT NOT NULL,
    lease_until BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    updated_at BIGINT NOT NULL,
    finished_at BIGINT,
    deadline_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX operation_queue ON operation (resource_id, seq);
CREATE INDEX operation_open ON operation (owner, state) WHERE finished_at IS NULL;
CREATE INDEX operation_finished ON operation (finished_at) WHERE finished_at IS NOT NULL;
CREATE TABLE reconciler_lease (name TEXT PRIMARY KEY, owner TEXT NOT NULL, lease_until BIGINT NOT NULL);
