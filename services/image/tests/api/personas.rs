//! Each rule, allowed and denied: every request of a table is made by every person.

use std::collections::BTreeSet;

use axum::body::Body;
use serde_json::json;

use crate::world::World;

/// Everybody with a token: project a owns the images, b is a member of them, c and the others are strangers.
const PERSONS: [&str; 7] = ["admin", "alice", "reader", "bob", "carol", "service", "system"];

struct Row {
    rule: &'static str,
    method: &'static str,
    /// `{active}` and `{queued}` are images that no request has changed.
    path: &'static str,
    body: &'static str,
    /// What those hear who may.
    status: u16,
    who: &'static [&'static str],
}

const fn row(
    rule: &'static str,
    method: &'static str,
    path: &'static str,
    body: &'static str,
    status: u16,
    who: &'static [&'static str],
) -> Row {
    Row { rule, method, path, body, status, who }
}

const ADMIN: &[&str] = &["admin"];
const OWNERS: &[&str] = &["admin", "alice"];
const SEEING: &[&str] = &["admin", "alice", "reader", "bob"];

const LOCATIONS: &str = r#"[{"op": "replace", "path": "/locations", "value": [{"url": "file:///x", "metadata": {}}]}]"#;

const ROWS: &[Row] = &[
    row("add_image", "POST", "/v2/images", "{}", 201, &["admin", "alice", "bob", "carol"]),
    row("get_images", "GET", "/v2/images", "", 200, &["admin", "alice", "reader", "bob", "carol"]),
    row("get_image", "GET", "/v2/images/{active}", "", 200, SEEING),
    row("modify_image", "PATCH", "/v2/images/{active}", r#"[{"op": "add", "path": "/a", "value": "b"}]"#, 200, OWNERS),
    row("modify_image", "PUT", "/v2/images/{active}/tags/x", "", 204, OWNERS),
    row("modify_image", "DELETE", "/v2/images/{active}/tags/t", "", 204, OWNERS),
    row("delete_image", "DELETE", "/v2/images/{active}", "", 204, OWNERS),
    row(
        "publicize_image",
        "PATCH",
        "/v2/images/{active}",
        r#"[{"op": "replace", "path": "/visibility", "value": "public"}]"#,
        200,
        &["admin"],
    ),
    row(
        "communitize_image",
        "PATCH",
        "/v2/images/{active}",
        r#"[{"op": "replace", "path": "/visibility", "value": "community"}]"#,
        200,
        OWNERS,
    ),
    row("download_image", "GET", "/v2/images/{active}/file", "", 200, &["admin", "alice", "bob"]),
    row("upload_image", "PUT", "/v2/images/{queued}/file", "bytes", 204, OWNERS),
    row("download_from_store", "GET", "/v2/images/{active}/file?prefer=local", "", 200, &["admin", "alice", "bob"]),
    row("modify_image", "PUT", "/v2/images/{queued}/stage", "bytes", 204, OWNERS),
    row("modify_image", "POST", "/v2/images/{queued}/import", r#"{"method": {"name": "glance-direct"}}"#, 409, OWNERS),
    // The image must be seen first: a service that is no reader finds none.
    row("fetch_image_location", "GET", "/v2/images/{active}/locations", "", 200, ADMIN),
    row("add_image_location", "POST", "/v2/images/{active}/locations", r#"{"url": "file:///x"}"#, 409, OWNERS),
    row("copy_image", "POST", "/v2/images/{active}/import", r#"{"method": {"name": "copy-image"}, "all_stores": true}"#, 202, ADMIN),
    // Locations are not shown here, so nobody changes them.
    row("set_image_location", "PATCH", "/v2/images/{active}", LOCATIONS, 403, OWNERS),
    row("delete_image_location", "PATCH", "/v2/images/{active}", r#"[{"op": "remove", "path": "/locations/0"}]"#, 403, ADMIN),
    // The only store is not given up.
    row("get_image_location", "DELETE", "/v2/stores/local/{active}", "", 403, ADMIN),
    row("delete_image_location", "DELETE", "/v2/stores/local/{active}", "", 403, ADMIN),
    row("cache_image", "PUT", "/v2/cache/{active}", "", 202, ADMIN),
    row("cache_list", "GET", "/v2/cache", "", 200, ADMIN),
    row("cache_delete", "DELETE", "/v2/cache", "", 204, ADMIN),
    row("cache_delete", "DELETE", "/v2/cache/{active}", "", 204, ADMIN),
    row("cache_clean", "POST", "/v2/cache/clean", "", 200, ADMIN),
    row("cache_prune", "POST", "/v2/cache/prune", "", 200, ADMIN),
    row("list_cached_nodes", "GET", "/v2/cache/nodes/{active}", "", 200, ADMIN),
    row("stores_info_detail", "GET", "/v2/info/stores/detail", "", 200, &["admin", "service"]),
    row("tasks_api_access", "DELETE", "/v2/tasks/11111111-2222-4333-8444-555555555555", "", 405, ADMIN),
    row("get_task", "GET", "/v2/tasks/11111111-2222-4333-8444-555555555555", "", 404, ADMIN),
    row("get_tasks", "GET", "/v2/tasks", "", 200, ADMIN),
    row("add_task", "POST", "/v2/tasks", r#"{"type": "import", "input": {}}"#, 400, ADMIN),
    row("deactivate", "POST", "/v2/images/{active}/actions/deactivate", "", 204, OWNERS),
    row("reactivate", "POST", "/v2/images/{active}/actions/reactivate", "", 204, OWNERS),
    row("add_member", "POST", "/v2/images/{active}/members", r#"{"member": "z"}"#, 200, OWNERS),
    row("get_members", "GET", "/v2/images/{active}/members", "", 200, SEEING),
    row("get_member", "GET", "/v2/images/{active}/members/b", "", 200, SEEING),
    row("modify_member", "PUT", "/v2/images/{active}/members/b", r#"{"status": "accepted"}"#, 200, &["admin", "bob"]),
    row("delete_member", "DELETE", "/v2/images/{active}/members/b", "", 204, OWNERS),
];

/// Rows of `{ns}`, a namespace that no request has changed: of project adm, public, with one thing of each kind.
const READERS: &[&str] = &["admin", "alice", "reader", "bob", "carol"];

const METADEFS: &[Row] = &[
    row("get_metadef_namespaces", "GET", "/v2/metadefs/namespaces", "", 200, READERS),
    row("add_metadef_namespace", "POST", "/v2/metadefs/namespaces", r#"{"namespace": "made"}"#, 201, ADMIN),
    row("get_metadef_namespace", "GET", "/v2/metadefs/namespaces/{ns}", "", 200, READERS),
    row("modify_metadef_namespace", "PUT", "/v2/metadefs/namespaces/{ns}", r#"{"namespace": "changed"}"#, 200, ADMIN),
    row("delete_metadef_namespace", "DELETE", "/v2/metadefs/namespaces/{ns}", "", 204, ADMIN),
    row("delete_metadef_namespace", "DELETE", "/v2/metadefs/namespaces/{ns}/objects", "", 204, ADMIN),
    row("delete_metadef_namespace", "DELETE", "/v2/metadefs/namespaces/{ns}/properties", "", 204, ADMIN),
    row("get_metadef_objects", "GET", "/v2/metadefs/namespaces/{ns}/objects", "", 200, READERS),
    row("get_metadef_object", "GET", "/v2/metadefs/namespaces/{ns}/objects/o", "", 200, READERS),
    row("add_metadef_object", "POST", "/v2/metadefs/namespaces/{ns}/objects", r#"{"name": "x"}"#, 201, ADMIN),
    row("modify_metadef_object", "PUT", "/v2/metadefs/namespaces/{ns}/objects/o", r#"{"name": "x"}"#, 200, ADMIN),
    row("delete_metadef_object", "DELETE", "/v2/metadefs/namespaces/{ns}/objects/o", "", 204, ADMIN),
    row("get_metadef_properties", "GET", "/v2/metadefs/namespaces/{ns}/properties", "", 200, READERS),
    row("get_metadef_property", "GET", "/v2/metadefs/namespaces/{ns}/properties/p", "", 200, READERS),
    row("add_metadef_property", "POST", "/v2/metadefs/namespaces/{ns}/properties", PROPERTY, 201, ADMIN),
    row("modify_metadef_property", "PUT", "/v2/metadefs/namespaces/{ns}/properties/p", PROPERTY, 200, ADMIN),
    row("remove_metadef_property", "DELETE", "/v2/metadefs/namespaces/{ns}/properties/p", "", 204, ADMIN),
    row("get_metadef_tags", "GET", "/v2/metadefs/namespaces/{ns}/tags", "", 200, READERS),
    row("get_metadef_tag", "GET", "/v2/metadefs/namespaces/{ns}/tags/t", "", 200, READERS),
    row("add_metadef_tag", "POST", "/v2/metadefs/namespaces/{ns}/tags/x", "", 201, ADMIN),
    row("add_metadef_tags", "POST", "/v2/metadefs/namespaces/{ns}/tags", r#"{"tags": []}"#, 201, ADMIN),
    row("modify_metadef_tag", "PUT", "/v2/metadefs/namespaces/{ns}/tags/t", r#"{"name": "x"}"#, 200, ADMIN),
    row("delete_metadef_tag", "DELETE", "/v2/metadefs/namespaces/{ns}/tags/t", "", 204, ADMIN),
    row("delete_metadef_tags", "DELETE", "/v2/metadefs/namespaces/{ns}/tags", "", 204, ADMIN),
    row("list_metadef_resource_types", "GET", "/v2/metadefs/resource_types", "", 200, READERS),
    row("get_metadef_resource_type", "GET", "/v2/metadefs/namespaces/{ns}/resource_types", "", 200, READERS),
    row("add_metadef_resource_type_association", "POST", "/v2/metadefs/namespaces/{ns}/resource_types", r#"{"name": "x"}"#, 201, ADMIN),
    row("remove_metadef_resource_type_association", "DELETE", "/v2/metadefs/namespaces/{ns}/resource_types/r", "", 204, ADMIN),
];
const PROPERTY: &str = r#"{"name": "x", "title": "X", "type": "string"}"#;

fn rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().chain(METADEFS)
}

async fn path(world: &World, template: &str) -> String {
    let mut path = template.to_string();
    if template.contains("{ns}") {
        let name = base::id::uuid();
        let body = json!({
            "namespace": name, "visibility": "public", "objects": [{"name": "o"}], "tags": [{"name": "t"}],
            "properties": {"p": {"title": "P", "type": "string"}}, "resource_type_associations": [{"name": "r"}]
        });
        world.post("admin", "/v2/metadefs/namespaces", body).await.is(201);
        path = path.replace("{ns}", &name);
    }
    for name in ["{active}", "{queued}"].into_iter().filter(|name| template.contains(name)) {
        let body = json!({"disk_format": "raw", "container_format": "bare", "tags": ["t"]});
        let id = match name {
            "{active}" => world.active("alice", body, b"content").await,
            _ => world.image("alice", body).await,
        };
        world.post("alice", &format!("/v2/images/{id}/members"), json!({"member": "b"})).await.is(200);
        path = path.replace(name, &id);
    }
    path
}

fn media_type(row: &Row) -> &'static str {
    match (row.method, row.path) {
        ("PATCH", _) => "application/openstack-images-v2.1-json-patch",
        ("PUT", path) if path.ends_with("/file") || path.ends_with("/stage") => "application/octet-stream",
        _ => "application/json",
    }
}

/// The rule that is asked beside a rule, and whose refusal says as much.
fn beside(rule: &str) -> &str {
    match rule {
        "get_image_location" => "delete_image_location",
        "delete_image_location" => "get_image_location",
        "download_from_store" => "download_image",
        "get_task" | "get_tasks" | "add_task" => "tasks_api_access",
        other => other,
    }
}

pub async fn every_rule_lets_in_whom_it_should(world: World) {
    for row in rows() {
        let mut target = path(&world, row.path).await;
        for person in PERSONS {
            let path = target.clone();
            let answer = world.send(person, row.method, &path, &[("content-type", media_type(row))], Body::from(row.body)).await;
            let said = format!("{} by {person}: {} {}", row.rule, answer.status, answer.text());
            if row.who.contains(&person) {
                assert_eq!(answer.status, row.status, "{said}");
                assert!(!answer.text().contains("to be performed"), "{said}");
                // Who is refused has changed nothing.
                if row.method != "GET" {
                    target = self::path(&world, row.path).await;
                }
                continue;
            }
            let by = |rule: &str| answer.text().contains(&format!("allow {rule} to be performed"));
            let refused = answer.status == 403 && (by(row.rule) || by(beside(row.rule)));
            // Who may not even see the thing is not told that it is there.
            let seeing = if row.path.contains("{ns}") { READERS } else { SEEING };
            let hidden = answer.status == 404 && !seeing.contains(&person);
            assert!(refused || hidden, "{said}");
        }
    }
}

/// A helper is asked by other rules only; it has no operations.
pub async fn every_rule_is_tried(_: World) {
    let tried: BTreeSet<&str> = rows().map(|row| row.rule).collect();
    let rules: BTreeSet<&str> = image::RULES.iter().filter(|rule| !rule.operations.is_empty()).map(|rule| rule.name).collect();
    assert_eq!(rules, tried);
}
