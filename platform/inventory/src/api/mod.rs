//! REST v1.
//!
//! | route | does |
//! |---|---|
//! | `GET /v1/ihosts`, `GET /v1/ihosts/{id}` | lists and shows hosts; `{id}` is the integer id or the UUID |
//! | `POST /v1/ihosts` | announces a host that is to join: `hostname`, `personality`; it comes up locked |
//! | `PATCH /v1/ihosts/{id}` | JSON patch of `/action`: `lock`, `force-lock`, `unlock` |
//! | `GET /v1/isystems`, `GET`, `PATCH /v1/isystems/{id}` | the site itself: its name, where it is, of what form |
//! | `GET /v1/service_parameter`, `GET`, `PATCH /v1/service_parameter/{id}` | what is set of services while they run |
//! | `POST /v1/service_parameter/apply` | has it hold |
//! | `GET /v1/isensors`, `GET /v1/isensorgroups`, each also of one host, and `/{id}` | what BMCs measure |
//! | `PATCH /v1/isensors/{id}`, `PATCH /v1/isensorgroups/{id}`, `POST /v1/isensorgroups/relearn` | what is done about it |
//! | `DELETE /v1/ihosts/{id}` | deletes a locked, empty host and revokes its certificate |
//! | `GET`, `POST /v1/join_tokens`, `DELETE /v1/join_tokens/{id}` | one-time tokens to join with; ours, no StarlingX service has them |
//! | `GET /v1/join`, `POST /v1/join` | how a machine joins (`crate::join`); without a token of the identity service |
//!
//! Times are ISO 8601. Errors are StarlingX's: `error_message` holds JSON as text, with `faultstring`.

mod hosts;
mod parameters;
mod sensors;
mod systems;
mod tokens;

use base::Result;
use http_api::{Api, FaultStyle, Request, Response, Routes, Table, json};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Inventory;

/// One of the changes in a `PATCH`, as JSON patch has them.
#[derive(Deserialize)]
struct Change {
    op: String,
    path: String,
    value: Value,
}

pub fn routes(inventory: Inventory) -> Result<Table> {
    Routes::new(inventory, Api { service: crate::KIND, style: FaultStyle::Fault, versions: None, head: false, slash: true })
        .public("GET", "/", root)
        .public("GET", "/v1", version)
        .get("/v1/ihosts", hosts::index)
        .post("/v1/ihosts", hosts::create)
        .get("/v1/ihosts/{id}", hosts::show)
        .patch("/v1/ihosts/{id}", hosts::update)
        .delete("/v1/ihosts/{id}", hosts::delete)
        .get("/v1/isensors", sensors::sensors_index)
        .get("/v1/isensors/{id}", sensors::sensor_show)
        .patch("/v1/isensors/{id}", sensors::sensor_update)
        .get("/v1/ihosts/{id}/isensors", sensors::host_sensors)
        .get("/v1/isensorgroups", sensors::groups_index)
        .post("/v1/isensorgroups/relearn", sensors::relearn)
        .get("/v1/isensorgroups/{id}", sensors::group_show)
        .patch("/v1/isensorgroups/{id}", sensors::group_update)
        .get("/v1/ihosts/{id}/isensorgroups", sensors::host_groups)
        .get("/v1/isystems", systems::index)
        .get("/v1/isystems/{id}", systems::show)
        .patch("/v1/isystems/{id}", systems::update)
        .get("/v1/service_parameter", parameters::index)
        .post("/v1/service_parameter/apply", parameters::apply)
        .get("/v1/service_parameter/{id}", parameters::show)
        .patch("/v1/service_parameter/{id}", parameters::update)
        .get("/v1/join_tokens", tokens::index)
        .post("/v1/join_tokens", tokens::create)
        .delete("/v1/join_tokens/{id}", tokens::delete)
        .public("GET", "/v1/join", tokens::offer)
        .public("POST", "/v1/join", tokens::join)
        .build()
}

async fn root(_: Inventory, req: Request) -> Result<Response> {
    let v1 = json!({"id": "v1", "links": [{"href": format!("{}/v1/", req.base_url), "rel": "self"}]});
    let body = json!({"name": "StarlingX System Configuration API", "description": "Hosts of this cloud", "versions": [v1], "default_version": v1});
    json(200, &body)
}

async fn version(_: Inventory, req: Request) -> Result<Response> {
    let links = |name: &str| json!([{"href": format!("{}/v1/{name}/", req.base_url), "rel": "self"}, {"href": format!("{}/{name}/", req.base_url), "rel": "bookmark"}]);
    json(
        200,
        &json!({
            "id": "v1",
            "links": [{"href": format!("{}/v1/", req.base_url), "rel": "self"}],
            "media_types": [{"base": "application/json", "type": "application/vnd.openstack.sysinv.v1+json"}],
            "isystems": links("isystems"),
            "ihosts": links("ihosts"),
            "isensors": links("isensors"),
            "isensorgroups": links("isensorgroups"),
            "service_parameter": links("service_parameter"),
        }),
    )
}
