//! What must hold for every route there is. A new route is covered by being in the table.

use serde_json::{Value, json};
use testing::{Cloud, Token};

pub const UUID: &str = "11111111-2222-4333-8444-555555555555";

/// The path with every variable filled with an id that nobody has. Where compute and block storage have the caller's project in
/// the path it is that; to identity a project is a thing like others, which a request may well delete.
pub fn filled(service: &str, path: &str, project: &str) -> String {
    let number = path.contains("/os-aggregates/");
    path.split('/')
        .map(|segment| match segment {
            "{id}" if number => "987654",
            "{project_id}" if service != "identity" => project,
            s if s.starts_with('{') => UUID,
            s => s,
        })
        .collect::<Vec<_>>()
        .join("/")
}

/// Where each service's table is mounted first.
pub fn mount(service: &str) -> &'static str {
    match service {
        "identity" => "/identity",
        "image" => "/image",
        "placement" => "/placement",
        "network" => "/network",
        "compute" => "/compute",
        "fault" => "/fault",
        "operation" => "/operation",
        "platform" => "/inventory",
        "block-storage" => "/volume",
        "instance-ha" => "/instance-ha",
        other => panic!("say here where the routes of {other} are mounted"),
    }
}

/// Every route as method and path; those that need no token apart.
pub fn routes(cloud: &Cloud, project: &str) -> Vec<(&'static str, String, bool)> {
    let routes = cloud.controller.app.routes();
    routes.into_iter().map(|r| (r.method, format!("{}{}", mount(r.service), filled(r.service, &r.path, project)), r.public)).collect()
}

/// A request that cost its caller the token would leave all further ones with nothing to say.
async fn still_good(cloud: &Cloud, token: &Token) {
    cloud.get(token, "/identity/v3/auth/projects").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_nothing_but_public_routes_answers() {
    let cloud = Cloud::start().await;
    let mut count = 0;
    for (method, path, public) in routes(&cloud, UUID) {
        for token in [None, Some("not-a-token"), Some("gAAAAABmnotreallyafernettoken")] {
            let mut request = cloud.request(method, &path).json(&json!({}));
            if let Some(text) = token {
                request = request.header("x-auth-token", text);
            }
            let status = request.send().await.status;
            assert!(if public { status < 500 } else { status == 401 }, "{method} {path} with token {token:?}: {status}");
            count += 1;
        }
    }
    assert!(count > 600, "only {count} requests: is a service missing?");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_and_an_unknown_id_never_meet_a_fault_of_ours() {
    let cloud = Cloud::start().await;
    let (admin, tenant) = (cloud.admin().await, cloud.tenant("stranger", "reader").await);
    for token in [&admin, &tenant] {
        for (method, path, public) in routes(&cloud, &token.project_id) {
            if public {
                continue;
            }
            for body in [Value::Null, json!({}), json!([]), json!({"unknown": {"field": 1}})] {
                let answer = cloud.request(method, &path).token(token).json(&body).send().await;
                assert!(answer.status < 500, "{method} {path} {body}: {} {}", answer.status, answer.text());
            }
        }
        still_good(&cloud, token).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_change_nothing() {
    let cloud = Cloud::start().await;
    let reader: Token = cloud.tenant("reader", "reader").await;
    for (method, path, public) in routes(&cloud, &reader.project_id) {
        // Logging out and in is everybody's; placement's candidates and the like are refused to tenants altogether.
        if public || matches!(method, "GET" | "HEAD") || path.contains("/auth/") {
            continue;
        }
        let answer = cloud.request(method, &path).token(&reader).json(&json!({})).send().await;
        assert!((400..500).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
    }
    still_good(&cloud, &reader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_the_clients_fault() {
    let cloud = Cloud::start().await;
    let admin = cloud.admin().await;
    let deep = format!("{}1{}", "[".repeat(2000), "]".repeat(2000));
    for (method, path, public) in routes(&cloud, &admin.project_id) {
        if matches!(method, "GET" | "HEAD" | "DELETE") {
            continue;
        }
        for body in ["{", "\"", "nul", "{\"a\": }", "\u{0}", "{\"a\":1}trailing", &deep] {
            let answer = cloud.request(method, &path).token(&admin).text("application/json", body.to_string()).send().await;
            // Uploads take any bytes, and some actions look at the thing before the body.
            assert!(answer.status < 500, "{method} {path} {:.20}: {} {}", body, answer.status, answer.text());
            assert!(!public || answer.status >= 300, "{method} {path} took {body:.20}");
        }
        let large = cloud.request(method, &path).token(&admin).text("application/json", "x".repeat((1 << 20) + 1)).send().await;
        assert!((400..500).contains(&large.status), "{method} {path} with a large body: {}", large.status);
    }
    still_good(&cloud, &admin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_leads_to_a_version_document_of_every_service() {
    let cloud = Cloud::start().await;
    let admin = cloud.admin().await;
    let catalogue = cloud.get(&admin, "/identity/v3/auth/catalog").await.expect(200);
    let services = catalogue["catalog"].as_array().unwrap().clone();
    assert_eq!(services.len(), 11);
    for service in services {
        let url = service["endpoints"][0]["url"].as_str().unwrap();
        let path = url.splitn(4, '/').nth(3).map(|p| format!("/{p}")).unwrap();
        // An endpoint may end in the project.
        let path = path.trim_end_matches(&format!("/{}", admin.project_id)).to_string();
        let answer = cloud.request("GET", &path).send().await;
        assert!(matches!(answer.status, 200 | 300), "{path}: {}", answer.status);
        let text = answer.text();
        // StarlingX describes a version as such.
        assert!((text.contains("version") || text.contains("media_types")) && text.contains("links"), "{path}: {text}");
    }
}
