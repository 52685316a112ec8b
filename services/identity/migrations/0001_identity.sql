-- Domains are projects with is_domain = 1; their domain_id and parent_id are ''.
CREATE TABLE project (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    domain_id TEXT NOT NULL,
    parent_id TEXT NOT NULL,
    is_domain BIGINT NOT NULL,
    enabled BIGINT NOT NULL,
    description TEXT,
    options TEXT NOT NULL,
    extra TEXT NOT NULL
);
CREATE UNIQUE INDEX project_name ON project (domain_id, name);
CREATE INDEX project_parent ON project (parent_id);
CREATE TABLE project_tag (
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (project_id, name)
);
CREATE TABLE identity_user (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    domain_id TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    default_project_id TEXT,
    password_hash TEXT,
    options TEXT NOT NULL,
    extra TEXT NOT NULL
);
CREATE UNIQUE INDEX identity_user_name ON identity_user (domain_id, name);
CREATE INDEX identity_user_default_project ON identity_user (default_project_id);
CREATE TABLE identity_group (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    domain_id TEXT NOT NULL,
    description TEXT,
    extra TEXT NOT NULL
);
CREATE UNIQUE INDEX identity_group_name ON identity_group (domain_id, name);
CREATE TABLE membership (
    group_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    PRIMARY KEY (group_id, user_id)
);
CREATE INDEX membership_user ON membership (user_id);
-- A role of no domain has domain_id ''.
CREATE TABLE identity_role (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    domain_id TEXT NOT NULL,
    description TEXT,
    options TEXT NOT NULL,
    extra TEXT NOT NULL
);
CREATE UNIQUE INDEX identity_role_name ON identity_role (domain_id, name);
CREATE TABLE implied_role (
    prior_id TEXT NOT NULL,
    implied_id TEXT NOT NULL,
    PRIMARY KEY (prior_id, implied_id)
);
-- actor_kind: user, group; target_kind: project, domain, system (with target_id 'system').
CREATE TABLE assignment (
    actor_kind TEXT NOT NULL,
    actor_id TEXT NOT NULL,
    target_kind TEXT NOT NULL,
    target_id TEXT NOT NULL,
    role_id TEXT NOT NULL,
    inherited BIGINT NOT NULL,
    PRIMARY KEY (actor_kind, actor_id, target_kind, target_id, role_id, inherited)
);
CREATE INDEX assignment_target ON assignment (target_kind, target_id);
CREATE INDEX assignment_role ON assignment (role_id);
CREATE TABLE region (
    id TEXT PRIMARY KEY,
    parent_region_id TEXT,
    description TEXT NOT NULL,
    extra TEXT NOT NULL
);
CREATE TABLE catalogue_service (
    id TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    extra TEXT NOT NULL
);
CREATE TABLE catalogue_endpoint (
    id TEXT PRIMARY KEY,
    service_id TEXT NOT NULL,
    interface TEXT NOT NULL,
    region_id TEXT,
    url TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    extra TEXT NOT NULL
);
CREATE INDEX catalogue_endpoint_service ON catalogue_endpoint (service_id);
-- Tokens of a subject that were issued at or before a time are void. kind: audit (one token), user, project, domain.
CREATE TABLE revocation (
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    issued_before BIGINT NOT NULL,
    forget_after BIGINT NOT NULL,
    PRIMARY KEY (kind, subject)
);
CREATE INDEX revocation_forget ON revocation (forget_after);
