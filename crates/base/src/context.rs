//! Who asks: travels with a request through every handle, operation and message.

use serde::{Deserialize, Serialize};

/// What a token is good for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// No token at all (public routes only).
    #[default]
    None,
    Unscoped,
    Project {
        id: String,
        name: String,
        domain_id: String,
        domain_name: String,
    },
    Domain {
        id: String,
        name: String,
    },
    System,
}

/// The caller: identity, roles and scope of the token, and the ids that make the request traceable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// `req-<uuid>`, made here for each request.
    pub request_id: String,
    /// The id the caller's caller gave, when it came with one.
    pub global_request_id: Option<String>,
    pub user_id: String,
    pub user_name: String,
    pub user_domain_id: String,
    pub user_domain_name: String,
    pub scope: Scope,
    /// Role names, implied ones included, lower case.
    pub roles: Vec<String>,
    /// True for the cloud's own work (reconcilers, bootstrap): every check passes.
    pub internal: bool,
}

impl Context {
    /// The cloud acting for itself.
    pub fn system(request_id: impl Into<String>) -> Self {
        Context { request_id: request_id.into(), scope: Scope::System, roles: vec!["admin".into()], internal: true, ..Default::default() }
    }
    /// The project the token is scoped to; empty for other scopes.
    pub fn project_id(&self) -> &str {
        match &self.scope {
            Scope::Project { id, .. } => id,
            _ => "",
        }
    }
    /// The domain a token is scoped to (domain scope only).
    pub fn domain_id(&self) -> Option<&str> {
        match &self.scope {
            Scope::Domain { id, .. } => Some(id),
            _ => None,
        }
    }
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|r| r == role)
    }
    /// The role that upstream's default policies call `context_is_admin`.
    pub fn is_admin(&self) -> bool {
        self.internal || self.has_role("admin")
    }
    /// The names policy rules use (`user_id`, `project_id`, `system_scope`, `is_admin`, ...), as oslo.context gives them.
    pub fn credentials(&self) -> serde_json::Value {
        let (project, project_name, project_domain) = match &self.scope {
            Scope::Project { id, name, domain_id, .. } => (Some(id), Some(name), Some(domain_id)),
            _ => (None, None, None),
        };
        serde_json::json!({
            "user_id": self.user_id,
            "user_domain_id": self.user_domain_id,
            "project_id": project,
            "tenant_id": project,
            "project_name": project_name,
            "project_domain_id": project_domain,
            "domain_id": self.domain_id(),
            "system_scope": if self.scope == Scope::System { Some("all") } else { None },
            "roles": self.roles,
            "is_admin": self.is_admin(),
            "is_admin_project": true,
        })
    }
}
