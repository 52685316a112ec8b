CREATE TABLE qos_policy (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, project_id TEXT NOT NULL, revision_number BIGINT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
    shared BIGINT NOT NULL, is_default BIGINT NOT NULL,
    doc TEXT NOT NULL);
CREATE INDEX qos_policy_project ON qos_policy (project_id);
CREATE INDEX qos_policy_shared ON qos_policy (shared);
CREATE UNIQUE INDEX qos_policy_default ON qos_policy (project_id) WHERE is_default = 1;

CREATE TABLE qos_rule (
    id TEXT PRIMARY KEY, policy_id TEXT NOT NULL REFERENCES qos_policy (id), type TEXT NOT NULL, direction TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    doc TEXT NOT NULL);
CREATE UNIQUE INDEX qos_rule_once ON qos_rule (policy_id, type, direction);

ALTER TABLE network ADD COLUMN qos_policy_id TEXT REFERENCES qos_policy (id);
CREATE INDEX network_qos_policy ON network (qos_policy_id);
ALTER TABLE port ADD COLUMN qos_policy_id TEXT REFERENCES qos_policy (id);
CREATE INDEX port_qos_policy ON port (qos_policy_id);
