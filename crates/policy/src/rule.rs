//! What a service declares: its rules and their secure defaults.

use base::Scope;

/// The kinds of token scope a rule may be limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeType {
    System,
    Domain,
    Project,
}

impl ScopeType {
    /// The word upstream's samples and faults use.
    pub const fn as_str(self) -> &'static str {
        match self {
            ScopeType::System => "system",
            ScopeType::Domain => "domain",
            ScopeType::Project => "project",
        }
    }
    /// Whether a token of `scope` is of this kind. Unscoped tokens are of none.
    pub fn admits(self, scope: &Scope) -> bool {
        matches!(
            (self, scope),
            (ScopeType::System, Scope::System) | (ScopeType::Domain, Scope::Domain { .. }) | (ScopeType::Project, Scope::Project { .. })
        )
    }
}

/// One policy rule as a service ships it. All of it is constant, so that a service can export a `static` table.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Upstream's name, for example `os_compute_api:servers:create`.
    pub name: &'static str,
    /// The check string that applies unless an operator overrides it.
    pub default: &'static str,
    pub description: &'static str,
    /// Token scopes that may use the rule; empty means any, an unscoped token included.
    pub scopes: &'static [ScopeType],
    /// Method and path of each request the rule guards; empty for helper rules.
    pub operations: &'static [(&'static str, &'static str)],
}

impl Rule {
    /// A rule that guards requests.
    pub const fn new(
        name: &'static str,
        default: &'static str,
        description: &'static str,
        operations: &'static [(&'static str, &'static str)],
    ) -> Rule {
        Rule { name, default, description, scopes: &[], operations }
    }
    /// A rule that only other rules refer to (`context_is_admin`, `admin_or_owner`).
    pub const fn helper(name: &'static str, default: &'static str, description: &'static str) -> Rule {
        Rule::new(name, default, description, &[])
    }
    /// Limits the rule to tokens of these scopes.
    pub const fn scoped(mut self, scopes: &'static [ScopeType]) -> Rule {
        self.scopes = scopes;
        self
    }
    /// Whether a token of `scope` may use the rule at all.
    pub fn admits(&self, scope: &Scope) -> bool {
        self.scopes.is_empty() || self.scopes.iter().any(|s| s.admits(scope))
    }
}
