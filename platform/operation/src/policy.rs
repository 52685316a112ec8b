//! Who may do what.

use policy::Rule;

const READ: &str = "role:admin or (role:reader and project_id:%(project_id)s)";

pub static RULES: &[Rule] = &[
    Rule::new(
        "operation:list",
        "role:reader or role:admin",
        "List operations; of other projects for administrators",
        &[("GET", "/v1/operations")],
    ),
    Rule::new("operation:show", READ, "Show an operation", &[("GET", "/v1/operations/{id}")]),
    // Undoing what a service began is not always what its own API would allow a user.
    Rule::new("operation:cancel", "role:admin", "Cancel an operation", &[("DELETE", "/v1/operations/{id}")]),
];
