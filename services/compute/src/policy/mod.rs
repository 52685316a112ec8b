//! The policy rules of the service, one file an owner, joined into one table.

mod groups;
mod life;
mod older;
mod proxies;
mod resources;
mod servers;
mod volumes;

use policy::{Rule, ScopeType};

pub(crate) const PROJECT: &[ScopeType] = &[ScopeType::Project];
pub(crate) const ANYONE: &str = "@";
pub(crate) const ADMIN: &str = "rule:context_is_admin";
pub(crate) const MANAGER: &str = "rule:project_manager_or_admin";
pub(crate) const MEMBER: &str = "rule:project_member_or_admin";
pub(crate) const READER: &str = "rule:project_reader_or_admin";

/// A rule that guards requests of project-scoped tokens, as all of compute's do.
pub(crate) const fn guard(
    name: &'static str,
    default: &'static str,
    description: &'static str,
    operations: &'static [(&'static str, &'static str)],
) -> Rule {
    Rule::new(name, default, description, operations).scoped(PROJECT)
}

const HELPERS: &[Rule] = &[
    Rule::helper("context_is_admin", "role:admin", "The cloud's administrators."),
    Rule::helper(
        "admin_or_owner",
        "is_admin:True or project_id:%(project_id)s",
        "Old default of most requests; kept for overrides that name it.",
    ),
    Rule::helper("admin_api", "is_admin:True", "Old default of administrators' requests; kept for overrides that name it."),
    Rule::helper("project_manager_api", "role:manager and project_id:%(project_id)s", "Managers of the thing's project."),
    Rule::helper("project_member_api", "role:member and project_id:%(project_id)s", "Members of the thing's project."),
    Rule::helper("project_reader_api", "role:reader and project_id:%(project_id)s", "Readers of the thing's project."),
    Rule::helper("service_api", "role:service", "Other services of the cloud."),
    Rule::helper("project_manager_or_admin", "rule:project_manager_api or rule:context_is_admin", "Managers and administrators."),
    Rule::helper("project_member_or_admin", "rule:project_member_api or rule:context_is_admin", "Members and administrators."),
    Rule::helper("project_reader_or_admin", "rule:project_reader_api or rule:context_is_admin", "Readers and administrators."),
    Rule::helper("service_or_admin", "rule:service_api or rule:context_is_admin", "Other services and administrators."),
];

/// The tables, for `Enforcer::load`.
pub static TABLES: &[&[Rule]] =
    &[HELPERS, servers::RULES, life::RULES, resources::RULES, groups::RULES, older::RULES, proxies::RULES, volumes::RULES];

const COUNT: usize = HELPERS.len()
    + servers::RULES.len()
    + life::RULES.len()
    + resources::RULES.len()
    + groups::RULES.len()
    + older::RULES.len()
    + proxies::RULES.len()
    + volumes::RULES.len();

/// Every rule of the service.
pub static RULES: &[Rule] = &joined();

const fn joined() -> [Rule; COUNT] {
    let mut all = [HELPERS[0]; COUNT];
    let tables: [&[Rule]; 8] =
        [HELPERS, servers::RULES, life::RULES, resources::RULES, groups::RULES, older::RULES, proxies::RULES, volumes::RULES];
    let (mut n, mut t) = (0, 0);
    while t < tables.len() {
        let mut i = 0;
        while i < tables[t].len() {
            all[n] = tables[t][i];
            n += 1;
            i += 1;
        }
        t += 1;
    }
    all
}
