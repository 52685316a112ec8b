//! Metadata definitions.

use serde_json::{Value, json};

use crate::world::{Answer, World};

const NAMESPACES: &str = "/v2/metadefs/namespaces";

fn names(answer: Answer, list: &str, name: &str) -> Vec<String> {
    let body = answer.is(200).json();
    body[list].as_array().unwrap().iter().map(|i| i[name].as_str().unwrap().to_string()).collect()
}

async fn namespace(world: &World, name: &str, more: Value) -> Value {
    let mut body = json!({"namespace": name});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.post("admin", NAMESPACES, body).await.is(201).json()
}

pub async fn a_namespace_has_everything_it_was_made_with(world: World) {
    let body = json!({
        "namespace": "My::Own", "display_name": "Own", "description": "What is mine", "visibility": "public", "protected": true,
        "resource_type_associations": [{"name": "OS::Glance::Image", "prefix": "hw_"}, {"name": "OS::Nova::Flavor"}],
        "properties": {"cores": {"title": "Cores", "type": "integer", "minimum": 1, "maximum": 8, "default": 2}},
        "objects": [{"name": "Chip", "required": ["kind"], "properties": {"kind": {"title": "Kind", "type": "string", "enum": ["a", "b"]}}}],
        "tags": [{"name": "fast"}]
    });
    let made = world.post("admin", NAMESPACES, body.clone()).await.is(201);
    assert_eq!(made.header("location"), "http://cloud:5000/image/v2/metadefs/namespaces/My::Own");
    let shown = world.get("reader", &format!("{NAMESPACES}/My::Own")).await.is(200).json();
    assert_eq!(made.json(), shown);
    for (name, value) in body.as_object().unwrap() {
        match name.as_str() {
            "resource_type_associations" => {
                assert_eq!((&shown[name][0]["name"], &shown[name][0]["prefix"]), (&json!("OS::Glance::Image"), &json!("hw_")));
                assert!(shown[name][1].get("prefix").is_none() && shown[name][1]["created_at"].is_string());
            }
            "objects" => {
                let object = &shown[name][0];
                assert_eq!((&object["name"], &object["required"]), (&json!("Chip"), &json!(["kind"])));
                assert_eq!(object["properties"]["kind"]["enum"], json!(["a", "b"]));
                assert_eq!(object["self"], "/v2/metadefs/namespaces/My::Own/objects/Chip");
                assert_eq!(object["schema"], "/v2/schemas/metadefs/object");
            }
            _ => assert_eq!(&shown[name], value, "{name}"),
        }
    }
    assert_eq!((&shown["owner"], &shown["self"]), (&json!("adm"), &json!("/v2/metadefs/namespaces/My::Own")));
    assert_eq!(shown["schema"], "/v2/schemas/metadefs/namespace");
    // With the names that properties have at a type of resource.
    let shown = world.get("reader", &format!("{NAMESPACES}/My::Own?resource_type=OS::Glance::Image")).await.is(200).json();
    assert_eq!(shown["properties"]["hw_cores"]["title"], "Cores");
    assert_eq!(
        (&shown["objects"][0]["required"], &shown["objects"][0]["properties"]["hw_kind"]["type"]),
        (&json!(["hw_kind"]), &json!("string"))
    );
    let plain = world.get("reader", &format!("{NAMESPACES}/My::Own?resource_type=OS::Nova::Flavor")).await.is(200).json();
    assert_eq!(plain["properties"]["cores"]["title"], "Cores");
    world.post("admin", NAMESPACES, json!({"namespace": "My::Own"})).await.is(409);
    // Nothing of what is protected can go.
    for path in
        ["", "/objects", "/objects/Chip", "/properties", "/properties/cores", "/tags", "/tags/fast", "/resource_types/OS::Nova::Flavor"]
    {
        let answer = world.delete("admin", &format!("{NAMESPACES}/My::Own{path}")).await.is(403);
        assert!(answer.text().contains("protected"), "{path}: {}", answer.text());
    }
    // An update sets everything: what it leaves out is as in a new one.
    let changed = world.put("admin", &format!("{NAMESPACES}/My::Own"), json!({"namespace": "My::Other"})).await.is(200).json();
    assert_eq!((&changed["visibility"], &changed["protected"], changed.get("display_name")), (&json!("private"), &json!(false), None));
    world.get("admin", &format!("{NAMESPACES}/My::Own")).await.is(404);
    assert_eq!(world.get("admin", &format!("{NAMESPACES}/My::Other")).await.is(200).json()["tags"], json!([{"name": "fast"}]));
    world.get("reader", &format!("{NAMESPACES}/My::Other")).await.is(404);
    namespace(&world, "My::Third", json!({})).await;
    world.put("admin", &format!("{NAMESPACES}/My::Other"), json!({"namespace": "My::Third"})).await.is(409);
    world.delete("admin", &format!("{NAMESPACES}/My::Other")).await.is(204);
    world.get("admin", &format!("{NAMESPACES}/My::Other")).await.is(404);
    world.delete("admin", &format!("{NAMESPACES}/My::Other")).await.is(404);
}

pub async fn bodies_of_definitions(world: World) {
    namespace(&world, "n", json!({"objects": [{"name": "o"}], "tags": [{"name": "t"}]})).await;
    let long = "x".repeat(81);
    for (status, words, path, body) in [
        (400, "'namespace' is a required", "", json!({})),
        (400, "'namespace'", "", json!({"namespace": long})),
        (400, "'namespace'", "", json!({"namespace": 5})),
        (400, "1 to 80", "", json!({"namespace": ""})),
        (400, "'visibility'", "", json!({"namespace": "x", "visibility": "shared"})),
        (400, "'description'", "", json!({"namespace": "x", "description": "d".repeat(501)})),
        (400, "'other' was unexpected", "", json!({"namespace": "x", "other": 1})),
        (400, "'title' is a required", "", json!({"namespace": "x", "properties": {"p": {"type": "string"}}})),
        (400, "'tags'", "", json!({"namespace": "x", "tags": [{}]})),
        (409, "twice", "", json!({"namespace": "x", "tags": [{"name": "a"}, {"name": "a"}]})),
        (403, "'created_at' is read-only", "", json!({"namespace": "x", "created_at": "now"})),
        (403, "'self' is read-only", "/n/objects", json!({"name": "x", "self": "/"})),
        (400, "'name' is a required", "/n/objects", json!({})),
        (400, "'name'", "/n/objects", json!({"name": long})),
        (400, "'required'", "/n/objects", json!({"name": "x", "required": "p"})),
        (400, "'type'", "/n/objects", json!({"name": "x", "properties": {"p": {"title": "P", "type": "text"}}})),
        (409, "exists already", "/n/objects", json!({"name": "o"})),
        (400, "'type' is a required", "/n/properties", json!({"name": "x", "title": "X"})),
        (400, "'maxLength'", "/n/properties", json!({"name": "x", "title": "X", "type": "string", "maxLength": -1})),
        (400, "'colour' was unexpected", "/n/properties", json!({"name": "x", "title": "X", "type": "string", "colour": 1})),
        (400, "'tags' is a required", "/n/tags", json!({})),
        (400, "'tags'", "/n/tags", json!({"tags": [{"name": "a", "more": 1}]})),
        (409, "exists already", "/n/tags", json!({"tags": [{"name": "a"}, {"name": "a"}]})),
        (409, "exists already", "/n/tags/t", json!({})),
        (400, "1 to 80|too long", &format!("/n/tags/{long}"), json!({})),
        (400, "'name' is a required", "/n/resource_types", json!({"prefix": "a"})),
        (404, "not found", "/none/objects", json!({"name": "x"})),
        (404, "not found", "/none/tags", json!({"tags": []})),
    ] {
        let answer = world.post("admin", &format!("{NAMESPACES}{path}"), body.clone()).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text());
        assert!(words.split('|').any(|word| answer.text().contains(word)), "{path} {body}: {}", answer.text());
    }
    world.get("admin", &format!("{NAMESPACES}/x")).await.is(404);
    for query in ["visibility=shared", "sort_key=colour", "sort_dir=up", "limit=-1", "limit=x"] {
        world.get("admin", &format!("{NAMESPACES}?{query}")).await.is(400);
    }
    for query in ["visibility=x", "sort_dir=up", "limit=0", "limit=x"] {
        world.get("admin", &format!("{NAMESPACES}/n/objects?{query}")).await.is(400);
    }
    world.get("admin", &format!("{NAMESPACES}?marker=none")).await.is(404);
    world.get("admin", &format!("{NAMESPACES}/n/tags?marker=none")).await.is(404);
}

pub async fn lists_of_namespaces(world: World) {
    for (name, visibility, kind) in [("a", "public", "T1"), ("c", "private", "T1"), ("b", "public", "T2"), ("d", "private", "T2")] {
        let types = json!([{"name": format!("test::{kind}")}]);
        namespace(&world, name, json!({"visibility": visibility, "resource_type_associations": types})).await;
    }
    world.put("admin", &format!("{NAMESPACES}/d"), json!({"namespace": "d", "owner": "a"})).await.is(200);
    let list = async |token: &str, query: &str| {
        let answer = world.get(token, &format!("{NAMESPACES}?limit=100&{query}")).await;
        names(answer, "namespaces", "namespace").into_iter().filter(|n| n.len() == 1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list("admin", "").await, "d b c a");
    assert_eq!(list("admin", "sort_key=namespace&sort_dir=asc").await, "a b c d");
    assert_eq!(list("admin", "visibility=private").await, "d c");
    assert_eq!(list("admin", "resource_types=test::T1").await, "c a");
    assert_eq!(list("admin", "resource_types=test::T1,test::T2&visibility=public").await, "b a");
    assert_eq!(list("admin", "resource_types=none").await, "");
    assert_eq!(list("alice", "").await, "d b a");
    assert_eq!(list("bob", "visibility=private").await, "");
    // By pages, until no next one is named.
    let (mut path, mut seen) =
        ("/v2/metadefs/namespaces?limit=2&sort_key=namespace&sort_dir=asc&resource_types=test::T1,test::T2".to_string(), Vec::new());
    let associated = loop {
        let body = world.get("admin", &path).await.is(200).json();
        let page = body["namespaces"].as_array().unwrap();
        seen.extend(page.iter().map(|n| n["namespace"].as_str().unwrap().to_string()));
        assert!(page.len() <= 2 && body["first"].as_str().unwrap().starts_with(NAMESPACES));
        match body["next"].as_str() {
            Some(next) => path = next.to_string(),
            None => break page.last().unwrap()["resource_type_associations"][0]["name"].clone(),
        }
    };
    assert_eq!((seen.join(" ").as_str(), associated), ("a b c d", json!("test::T2")));
    let types = names(world.get("reader", "/v2/metadefs/resource_types").await, "resource_types", "name");
    assert!(types.contains(&"test::T1".to_string()) && types.contains(&"OS::Nova::Flavor".to_string()), "{types:?}");
}

pub async fn what_is_in_a_namespace_comes_and_goes(world: World) {
    namespace(&world, "n", json!({"visibility": "public"})).await;
    let at = |path: &str| format!("{NAMESPACES}/n/{path}");
    // Objects.
    for name in ["o1", "o2", "o3"] {
        let made = world.post("admin", &at("objects"), json!({"name": name, "description": "d"})).await.is(201).json();
        assert_eq!(made, world.get("reader", &at(&format!("objects/{name}"))).await.is(200).json());
    }
    assert_eq!(names(world.get("reader", &at("objects")).await, "objects", "name"), ["o3", "o2", "o1"]);
    assert_eq!(names(world.get("reader", &at("objects?sort_dir=asc&limit=1&marker=o1")).await, "objects", "name"), ["o2"]);
    let changed = world.put("admin", &at("objects/o1"), json!({"name": "o4"})).await.is(200).json();
    assert_eq!((&changed["name"], changed.get("description")), (&json!("o4"), None));
    world.put("admin", &at("objects/o4"), json!({"name": "o2"})).await.is(409);
    world.put("admin", &at("objects/o1"), json!({"name": "o5"})).await.is(404);
    world.delete("admin", &at("objects/o4")).await.is(204);
    world.delete("admin", &at("objects/o4")).await.is(404);
    world.delete("admin", &at("objects")).await.is(204);
    assert!(names(world.get("reader", &at("objects")).await, "objects", "name").is_empty());
    // Properties.
    let property = |name: &str| json!({"name": name, "title": "P", "type": "string", "operators": ["<or>"], "readonly": false});
    assert_eq!(world.post("admin", &at("properties"), property("p")).await.is(201).json(), property("p"));
    world.post("admin", &at("properties"), property("q")).await.is(201);
    let all = world.get("reader", &at("properties")).await.is(200).json();
    assert_eq!(all["properties"]["p"], json!({"title": "P", "type": "string", "operators": ["<or>"], "readonly": false}));
    world.put("admin", &at("properties/p"), property("q")).await.is(409);
    assert_eq!(world.put("admin", &at("properties/p"), property("r")).await.is(200).json()["name"], "r");
    // Under the name it has at a type of resource.
    world.post("admin", &at("resource_types"), json!({"name": "T", "prefix": "x:", "properties_target": "image"})).await.is(201);
    world.post("admin", &at("resource_types"), json!({"name": "T"})).await.is(409);
    world.post("admin", &at("resource_types"), json!({"name": "U"})).await.is(201);
    assert_eq!(world.get("reader", &at("properties/x:r?resource_type=T")).await.is(200).json()["name"], "r");
    for wrong in ["r?resource_type=T", "x:r?resource_type=U", "x:r?resource_type=V", "x:r"] {
        world.get("reader", &at(&format!("properties/{wrong}"))).await.is(404);
    }
    let associations = world.get("reader", &at("resource_types")).await.is(200).json();
    assert_eq!(associations["resource_type_associations"][0]["properties_target"], "image");
    world.delete("admin", &at("resource_types/U")).await.is(204);
    world.delete("admin", &at("resource_types/U")).await.is(404);
    world.delete("admin", &at("properties/r")).await.is(204);
    world.delete("admin", &at("properties")).await.is(204);
    assert_eq!(world.get("reader", &at("properties")).await.is(200).json(), json!({"properties": {}}));
    // Tags, one by one and many at once.
    let made = world.post("admin", &at("tags/one"), json!({})).await.is(201).json();
    assert!(made["name"] == "one" && made["created_at"].is_string());
    let many = |names: &[&str]| json!({"tags": names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>()});
    assert_eq!(world.post("admin", &at("tags"), many(&["a", "b"])).await.is(201).json(), many(&["a", "b"]));
    assert_eq!(names(world.get("reader", &at("tags?sort_key=name&sort_dir=asc")).await, "tags", "name"), ["a", "b"]);
    let append = [("x-openstack-append", "True"), ("content-type", "application/json")];
    world.send("admin", "POST", &at("tags"), &append, many(&["c"]).to_string().into()).await.is(201);
    world.send("admin", "POST", &at("tags"), &append, many(&["d", "c"]).to_string().into()).await.is(409);
    assert_eq!(names(world.get("reader", &at("tags?sort_key=name&sort_dir=asc&marker=a")).await, "tags", "name"), ["b", "c"]);
    assert_eq!(world.put("admin", &at("tags/a"), json!({"name": "z"})).await.is(200).json()["name"], "z");
    world.get("reader", &at("tags/a")).await.is(404);
    world.get("reader", &at("tags/z")).await.is(200);
    world.delete("admin", &at("tags/z")).await.is(204);
    world.delete("admin", &at("tags")).await.is(204);
    assert!(names(world.get("reader", &at("tags")).await, "tags", "name").is_empty());
}

pub async fn the_standard_definitions_are_there(world: World) {
    let all = names(world.get("reader", &format!("{NAMESPACES}?limit=100")).await, "namespaces", "namespace");
    assert_eq!(all.len(), 33);
    let shown = world.get("reader", &format!("{NAMESPACES}/OS::Compute::Watchdog?resource_type=OS::Nova::Flavor")).await.is(200).json();
    assert_eq!(shown["properties"]["hw:watchdog_action"]["enum"], json!(["disabled", "reset", "poweroff", "pause", "none"]));
    world.delete("admin", &format!("{NAMESPACES}/OS::Compute::Watchdog")).await.is(403);
    // What an administrator deletes does not come back.
    world.delete("admin", &format!("{NAMESPACES}/OS::Glance::Signatures")).await.is(204);
    if world.core.store.is_sqlite() {
        let world = world.restart().await;
        let all = names(world.get("reader", &format!("{NAMESPACES}?limit=100")).await, "namespaces", "namespace");
        assert_eq!(all.len(), 32);
    }
}

pub async fn schemas_of_definitions(world: World) {
    for (name, words) in [("namespace", 14), ("object", 8), ("property", 19), ("resource_type", 5), ("tag", 3)] {
        let schema = world.get("reader", &format!("/v2/schemas/metadefs/{name}")).await.is(200).json();
        let properties = schema["properties"].as_object().unwrap().len();
        assert_eq!(properties, words, "{name}");
        let list = match name {
            "property" => "properties".to_string(),
            other => format!("{other}s"),
        };
        let schema = world.get("reader", &format!("/v2/schemas/metadefs/{list}")).await.is(200).json();
        assert!(schema["properties"]["schema"].is_object() && schema["name"].is_string(), "{list}");
    }
    world.get("reader", "/v2/schemas/metadefs/none").await.is(404);
    world.get("", "/v2/schemas/metadefs/tag").await.is(401);
}
