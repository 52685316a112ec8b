//! Who may do what, under upstream's names.

use policy::{Rule, ScopeType};

const ADMIN: &str = "rule:admin_or_service_api";

const fn guard(name: &'static str, description: &'static str, operations: &'static [(&'static str, &'static str)]) -> Rule {
    Rule::new(name, ADMIN, description, operations).scoped(&[ScopeType::Project])
}

pub static RULES: &[Rule] = &[
    Rule::helper("admin_api", "role:admin", "The cloud's administrators."),
    Rule::helper("service_api", "role:service", "Other services of the cloud."),
    Rule::helper("admin_or_service_api", "role:admin or role:service", "Administrators and other services."),
    Rule::helper(
        "admin_or_project_reader_or_service_api",
        "role:admin or role:service or (role:reader and project_id:%(project_id)s)",
        "Also readers of the project asked for.",
    ),
    guard("placement:resource_providers:list", "List resource providers.", &[("GET", "/resource_providers")]),
    guard("placement:resource_providers:create", "Create a resource provider.", &[("POST", "/resource_providers")]),
    guard("placement:resource_providers:show", "Show a resource provider.", &[("GET", "/resource_providers/{uuid}")]),
    guard("placement:resource_providers:update", "Change a resource provider.", &[("PUT", "/resource_providers/{uuid}")]),
    guard("placement:resource_providers:delete", "Delete a resource provider.", &[("DELETE", "/resource_providers/{uuid}")]),
    guard("placement:resource_providers:inventories:list", "List inventories.", &[("GET", "/resource_providers/{uuid}/inventories")]),
    guard("placement:resource_providers:inventories:create", "Create an inventory.", &[("POST", "/resource_providers/{uuid}/inventories")]),
    guard(
        "placement:resource_providers:inventories:show",
        "Show an inventory.",
        &[("GET", "/resource_providers/{uuid}/inventories/{class}")],
    ),
    guard(
        "placement:resource_providers:inventories:update",
        "Change inventories.",
        &[("PUT", "/resource_providers/{uuid}/inventories"), ("PUT", "/resource_providers/{uuid}/inventories/{class}")],
    ),
    guard(
        "placement:resource_providers:inventories:delete",
        "Delete inventories.",
        &[("DELETE", "/resource_providers/{uuid}/inventories"), ("DELETE", "/resource_providers/{uuid}/inventories/{class}")],
    ),
    guard(
        "placement:resource_providers:aggregates:list",
        "List a provider's aggregates.",
        &[("GET", "/resource_providers/{uuid}/aggregates")],
    ),
    guard(
        "placement:resource_providers:aggregates:update",
        "Set a provider's aggregates.",
        &[("PUT", "/resource_providers/{uuid}/aggregates")],
    ),
    guard("placement:resource_providers:traits:list", "List a provider's traits.", &[("GET", "/resource_providers/{uuid}/traits")]),
    guard("placement:resource_providers:traits:update", "Set a provider's traits.", &[("PUT", "/resource_providers/{uuid}/traits")]),
    guard("placement:resource_providers:traits:delete", "Remove a provider's traits.", &[("DELETE", "/resource_providers/{uuid}/traits")]),
    guard("placement:resource_providers:usages", "Show what of a provider is used.", &[("GET", "/resource_providers/{uuid}/usages")]),
    guard(
        "placement:resource_providers:allocations:list",
        "List a provider's allocations.",
        &[("GET", "/resource_providers/{uuid}/allocations")],
    ),
    guard("placement:resource_classes:list", "List resource classes.", &[("GET", "/resource_classes")]),
    guard("placement:resource_classes:create", "Create a resource class.", &[("POST", "/resource_classes")]),
    guard("placement:resource_classes:show", "Show a resource class.", &[("GET", "/resource_classes/{name}")]),
    guard("placement:resource_classes:update", "Create or rename a resource class.", &[("PUT", "/resource_classes/{name}")]),
    guard("placement:resource_classes:delete", "Delete a resource class.", &[("DELETE", "/resource_classes/{name}")]),
    guard("placement:traits:list", "List traits.", &[("GET", "/traits")]),
    guard("placement:traits:show", "Ask whether a trait exists.", &[("GET", "/traits/{name}")]),
    guard("placement:traits:update", "Create a trait.", &[("PUT", "/traits/{name}")]),
    guard("placement:traits:delete", "Delete a trait.", &[("DELETE", "/traits/{name}")]),
    guard("placement:allocations:list", "List a consumer's allocations.", &[("GET", "/allocations/{consumer}")]),
    guard("placement:allocations:manage", "Change allocations of several consumers.", &[("POST", "/allocations")]),
    guard("placement:allocations:update", "Change a consumer's allocations.", &[("PUT", "/allocations/{consumer}")]),
    guard("placement:allocations:delete", "Delete a consumer's allocations.", &[("DELETE", "/allocations/{consumer}")]),
    guard("placement:reshaper:reshape", "Move inventories with what is allocated of them.", &[("POST", "/reshaper")]),
    guard("placement:allocation_candidates:list", "List where something would fit.", &[("GET", "/allocation_candidates")]),
    Rule::new("placement:usages", "rule:admin_or_project_reader_or_service_api", "Show what a project uses.", &[("GET", "/usages")])
        .scoped(&[ScopeType::Project]),
];
