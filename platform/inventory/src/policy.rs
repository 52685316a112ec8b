//! Who may do what, in the manner of StarlingX's configuration API: readers read, administrators and configurators change.

use policy::Rule;

const READ: &str = "role:reader or role:operator or role:configurator or role:admin";
const WRITE: &str = "(role:admin or role:configurator) and (project_name:admin or project_name:services or project_name:service)";
const ACT: &str =
    "(role:admin or role:configurator or role:operator) and (project_name:admin or project_name:services or project_name:service)";

pub static RULES: &[Rule] = &[
    Rule::new("config_api:ihosts:get", READ, "List and show hosts", &[("GET", "/v1/ihosts"), ("GET", "/v1/ihosts/{id}")]),
    Rule::new("config_api:ihosts:add", WRITE, "Announce a host that is to join", &[("POST", "/v1/ihosts")]),
    Rule::new("config_api:ihosts:modify", ACT, "Lock, unlock and otherwise act on a host", &[("PATCH", "/v1/ihosts/{id}")]),
    Rule::new("config_api:ihosts:delete", WRITE, "Delete a host and revoke its certificate", &[("DELETE", "/v1/ihosts/{id}")]),
    Rule::new(
        "config_api:isensors:get",
        READ,
        "List and show sensors",
        &[("GET", "/v1/isensors"), ("GET", "/v1/isensors/{id}"), ("GET", "/v1/ihosts/{id}/isensors")],
    ),
    Rule::new("config_api:isensors:modify", WRITE, "Change a sensor", &[("PATCH", "/v1/isensors/{id}")]),
    Rule::new(
        "config_api:isensorgroups:get",
        READ,
        "List and show groups of sensors",
        &[("GET", "/v1/isensorgroups"), ("GET", "/v1/isensorgroups/{id}"), ("GET", "/v1/ihosts/{id}/isensorgroups")],
    ),
    Rule::new("config_api:isensorgroups:modify", WRITE, "Change a group of sensors", &[("PATCH", "/v1/isensorgroups/{id}")]),
    Rule::new("config_api:isensorgroups:relearn", WRITE, "Learn a host's sensors anew", &[("POST", "/v1/isensorgroups/relearn")]),
    Rule::new("config_api:isystems:get", READ, "Show the site", &[("GET", "/v1/isystems"), ("GET", "/v1/isystems/{id}")]),
    Rule::new("config_api:isystems:modify", WRITE, "Describe the site", &[("PATCH", "/v1/isystems/{id}")]),
    Rule::new(
        "config_api:service_parameter:get",
        READ,
        "List and show service parameters",
        &[("GET", "/v1/service_parameter"), ("GET", "/v1/service_parameter/{id}")],
    ),
    Rule::new("config_api:service_parameter:modify", WRITE, "Change a service parameter", &[("PATCH", "/v1/service_parameter/{id}")]),
    Rule::new("config_api:service_parameter:apply", WRITE, "Have service parameters hold", &[("POST", "/v1/service_parameter/apply")]),
    Rule::new("config_api:join_tokens:get", WRITE, "List tokens to join with, without their secrets", &[("GET", "/v1/join_tokens")]),
    Rule::new("config_api:join_tokens:add", WRITE, "Make a token to join with", &[("POST", "/v1/join_tokens")]),
    Rule::new("config_api:join_tokens:delete", WRITE, "Delete a token to join with", &[("DELETE", "/v1/join_tokens/{id}")]),
];
