//! Who may do what, under StarlingX's names.

use policy::Rule;

const READ: &str = "role:reader or role:operator or role:configurator or role:admin";
const WRITE: &str = "(role:admin or role:configurator) and (project_name:admin or project_name:services or project_name:service)";

pub static RULES: &[Rule] = &[
    Rule::new("fm_api:alarms:get", READ, "List and show alarms, and their summary", &[("GET", "/v1/alarms"), ("GET", "/v1/alarms/{uuid}")]),
    Rule::new("fm_api:alarms:create", WRITE, "Set an alarm or write a log", &[("POST", "/v1/alarms")]),
    Rule::new("fm_api:alarms:modify", WRITE, "Change an alarm", &[("PUT", "/v1/alarms/{id}")]),
    Rule::new("fm_api:alarms:delete", WRITE, "Clear an alarm", &[("DELETE", "/v1/alarms/{uuid}")]),
    Rule::new(
        "fm_api:event_log:get",
        READ,
        "List and show events, and follow them",
        &[("GET", "/v1/event_log"), ("GET", "/v1/event_log/{uuid}"), ("GET", "/v1/stream")],
    ),
    Rule::new(
        "fm_api:event_suppression:get",
        READ,
        "List suppressions",
        &[
            ("GET", "/v1/event_suppression"),
            ("GET", "/v1/event_suppression/{uuid}"),
            ("GET", "/v1/entity_suppression"),
            ("GET", "/v1/entity_suppression/{uuid}"),
        ],
    ),
    Rule::new(
        "fm_api:event_suppression:modify",
        WRITE,
        "Suppress an alarm id or alarms of entities, or end it",
        &[
            ("PATCH", "/v1/event_suppression/{uuid}"),
            ("POST", "/v1/entity_suppression"),
            ("PATCH", "/v1/entity_suppression/{uuid}"),
            ("DELETE", "/v1/entity_suppression/{uuid}"),
        ],
    ),
];
