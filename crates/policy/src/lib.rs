//! Who may do what: the oslo.policy rule language, the services' rules and overrides, and the decision in process.
//!
//! A service exports its rules as constants, under upstream's names and with upstream's secure defaults:
//!
//! ```
//! use policy::{Rule, ScopeType};
//!
//! pub static RULES: &[Rule] = &[
//!     Rule::helper("context_is_admin", "role:admin", "The cloud's administrators."),
//!     Rule::helper("project_reader", "role:reader and project_id:%(project_id)s", "Readers of the thing's project."),
//!     Rule::new(
//!         "os_compute_api:servers:show",
//!         "rule:context_is_admin or rule:project_reader",
//!         "Show a server.",
//!         &[("GET", "/servers/{server_id}")],
//!     )
//!     .scoped(&[ScopeType::Project]),
//! ];
//!
//! // once, at start
//! let policy = policy::Policy::new(policy::Enforcer::load(&[("compute", &[RULES])], None)?);
//!
//! // in a handler: what the rule may ask of the target is given as pairs, or as a JSON object
//! let ctx = base::Context {
//!     user_id: "u1".into(),
//!     scope: base::Scope::Project { id: "p1".into(), name: "web".into(), domain_id: "default".into(), domain_name: "Default".into() },
//!     roles: vec!["member".into(), "reader".into()],
//!     ..Default::default()
//! };
//! policy.authorize("compute", "os_compute_api:servers:show", &ctx, &[("project_id", "p1")])?;
//! assert!(!policy.check("compute", "os_compute_api:servers:show", &ctx, &[("project_id", "p2")]));
//! # Ok::<(), base::Error>(())
//! ```
//!
//! Beyond oslo.policy: `field:resource:name=value` (the network service's own check) is understood; a check string that
//! cannot be parsed, and rules that refer to themselves, are errors at load; `http:` and `https:` checks are refused.
//! A `rule:` reference to a name that is not there goes to the service's `default` rule, as upstream, and is false
//! where there is none; [`Enforcer::problems`] lists such references.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod caller;
mod enforcer;
mod eval;
mod expr;
mod overrides;
mod parse;
mod report;
mod rule;
mod target;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use caller::Name;
pub use enforcer::{Enforcer, Policy};
pub use eval::Explanation;
pub use expr::{Expr, Field, Left, Template};
pub use parse::{ParseError, parse, parse_lists};
pub use report::{Row, Verdict};
pub use rule::{Rule, ScopeType};
pub use target::{Attr, Target};
