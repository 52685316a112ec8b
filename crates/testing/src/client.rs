//! Requests to the cloud under test.

use std::time::{Duration, Instant};

use axum::body::Body;
use serde_json::{Value, json};

use crate::{Answer, Cloud};

/// A token and the project it is good for.
#[derive(Clone, Debug, Default)]
pub struct Token {
    pub text: String,
    pub project_id: String,
    pub user_id: String,
}

/// A request being put together.
pub struct Request<'a> {
    cloud: &'a Cloud,
    builder: hyper::http::request::Builder,
    body: Body,
}

impl Request<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.header(name, value);
        self
    }
    pub fn token(self, token: &Token) -> Self {
        self.header("x-auth-token", &token.text)
    }
    pub fn json(self, body: &Value) -> Self {
        self.text("application/json", body.to_string())
    }
    pub fn text(mut self, kind: &str, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self.header("content-type", kind)
    }
    pub async fn send(self) -> Answer {
        let request = self.builder.header("host", "cloud.test").body(self.body).expect("a well-formed request");
        let response = self.cloud.controller.app.handle(request, &http_api::Peer::default()).await;
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("a whole body").to_vec();
        Answer { status: parts.status.as_u16(), headers: parts.headers, bytes }
    }
}

impl Cloud {
    pub fn request(&self, method: &str, path: &str) -> Request<'_> {
        Request { cloud: self, builder: hyper::Request::builder().method(method).uri(path), body: Body::empty() }
    }
    pub async fn get(&self, token: &Token, path: &str) -> Answer {
        self.request("GET", path).token(token).send().await
    }
    pub async fn delete(&self, token: &Token, path: &str) -> Answer {
        self.request("DELETE", path).token(token).send().await
    }
    pub async fn post(&self, token: &Token, path: &str, body: Value) -> Answer {
        self.request("POST", path).token(token).json(&body).send().await
    }
    pub async fn put(&self, token: &Token, path: &str, body: Value) -> Answer {
        self.request("PUT", path).token(token).json(&body).send().await
    }

    /// The administrator, in project `admin`.
    pub async fn admin(&self) -> Token {
        let openrc = std::fs::read_to_string(self.home().join("openrc")).expect("openrc");
        let password = openrc.lines().find_map(|l| l.strip_prefix("export OS_PASSWORD=")).expect("a password");
        self.login("admin", password, "admin").await
    }

    pub async fn login(&self, user: &str, password: &str, project: &str) -> Token {
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {"name": user, "password": password, "domain": {"id": "default"}}}},
            "scope": {"project": {"name": project, "domain": {"id": "default"}}},
        }});
        let answer = self.request("POST", "/identity/v3/auth/tokens").json(&body).send().await;
        let token = answer.expect(201);
        let id = |of: &Value| of["id"].as_str().unwrap_or_default().to_string();
        Token {
            text: answer.header("x-subject-token").to_string(),
            project_id: id(&token["token"]["project"]),
            user_id: id(&token["token"]["user"]),
        }
    }

    /// A new project with a new user who has `role` in it.
    pub async fn tenant(&self, name: &str, role: &str) -> Token {
        let admin = self.admin().await;
        let project =
            self.post(&admin, "/identity/v3/projects", json!({"project": {"name": name, "domain_id": "default"}})).await.expect(201);
        let user = json!({"user": {"name": name, "domain_id": "default", "password": "a password"}});
        let user = self.post(&admin, "/identity/v3/users", user).await.expect(201);
        let roles = self.get(&admin, &format!("/identity/v3/roles?name={role}")).await.expect(200);
        let text = |v: &Value| v.as_str().expect("an id").to_string();
        let (project, user, role) = (text(&project["project"]["id"]), text(&user["user"]["id"]), text(&roles["roles"][0]["id"]));
        let assigned = self.put(&admin, &format!("/identity/v3/projects/{project}/users/{user}/roles/{role}"), Value::Null).await;
        assert_eq!(assigned.status, 204, "{}", assigned.text());
        self.login(name, "a password", name).await
    }

    /// Asks again until `fits`, at most for `patience`; returns what fitted.
    pub async fn until(&self, token: &Token, path: &str, patience: Duration, fits: impl Fn(&Answer) -> bool) -> Answer {
        let started = Instant::now();
        loop {
            let answer = self.get(token, path).await;
            if fits(&answer) {
                return answer;
            }
            assert!(started.elapsed() < patience, "{path} stays {} {}", answer.status, answer.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
