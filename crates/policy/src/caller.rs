//! The names by which rules know the caller's attributes, resolved once when a rule is parsed.

use crate::Attr;
use base::{Context, Scope};

/// A credential's name, as written, with the place in [`Context`] it stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    text: String,
    known: Option<Known>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    UserId,
    UserName,
    UserDomainId,
    UserDomainName,
    ProjectId,
    ProjectName,
    ProjectDomainId,
    ProjectDomainName,
    DomainId,
    DomainName,
    SystemScope,
    IsAdmin,
    IsAdminProject,
    Roles,
    RequestId,
    GlobalRequestId,
}

impl Name {
    pub(crate) fn new(text: &str) -> Name {
        // identity's rules may write `token.project.domain.id`; all of a token is in the context itself
        let known = match text.strip_prefix("token.").unwrap_or(text) {
            "user_id" | "user.id" | "user" => Some(Known::UserId),
            "user_name" | "user.name" => Some(Known::UserName),
            "user_domain_id" | "user.domain.id" | "user_domain" => Some(Known::UserDomainId),
            "user_domain_name" | "user.domain.name" => Some(Known::UserDomainName),
            "project_id" | "project.id" | "tenant_id" | "tenant" => Some(Known::ProjectId),
            "project_name" | "project.name" => Some(Known::ProjectName),
            "project_domain_id" | "project.domain.id" | "project_domain" => Some(Known::ProjectDomainId),
            "project_domain_name" | "project.domain.name" => Some(Known::ProjectDomainName),
            "domain_id" | "domain.id" => Some(Known::DomainId),
            "domain_name" | "domain.name" => Some(Known::DomainName),
            "system_scope" | "system" => Some(Known::SystemScope),
            "is_admin" => Some(Known::IsAdmin),
            "is_admin_project" => Some(Known::IsAdminProject),
            "roles" => Some(Known::Roles),
            "request_id" => Some(Known::RequestId),
            "global_request_id" => Some(Known::GlobalRequestId),
            _ => None,
        };
        Name { text: text.to_owned(), known }
    }
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// False for a name no context ever has: a check on it never passes.
    pub fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// Whether the caller's value (or, of a list, any of them) satisfies `test`.
    pub(crate) fn any<'a>(&self, ctx: &'a Context, test: &mut dyn FnMut(Attr<'a>) -> bool) -> bool {
        fn filled(text: &str) -> Attr<'_> {
            if text.is_empty() { Attr::Null } else { Attr::Str(text) }
        }
        let Some(known) = self.known else { return false };
        let attr = match (known, &ctx.scope) {
            (Known::Roles, _) => return ctx.roles.iter().any(|role| test(Attr::Str(role))),
            (Known::UserId, _) => filled(&ctx.user_id),
            (Known::UserName, _) => filled(&ctx.user_name),
            (Known::UserDomainId, _) => filled(&ctx.user_domain_id),
            (Known::UserDomainName, _) => filled(&ctx.user_domain_name),
            (Known::ProjectId, Scope::Project { id, .. }) => Attr::Str(id),
            (Known::ProjectName, Scope::Project { name, .. }) => Attr::Str(name),
            (Known::ProjectDomainId, Scope::Project { domain_id, .. }) => Attr::Str(domain_id),
            (Known::ProjectDomainName, Scope::Project { domain_name, .. }) => Attr::Str(domain_name),
            (Known::DomainId, Scope::Domain { id, .. }) => Attr::Str(id),
            (Known::DomainName, Scope::Domain { name, .. }) => Attr::Str(name),
            (Known::SystemScope, Scope::System) => Attr::Str("all"),
            (Known::IsAdmin, _) => Attr::Bool(ctx.is_admin()),
            (Known::IsAdminProject, _) => Attr::Bool(true),
            (Known::RequestId, _) => filled(&ctx.request_id),
            (Known::GlobalRequestId, _) => ctx.global_request_id.as_deref().map_or(Attr::Null, Attr::Str),
            _ => Attr::Null,
        };
        test(attr)
    }
}
