//! The commands `sturnus identity` as an operator calls them, beside a cloud that serves.
#![allow(clippy::unwrap_used)]

use base::Config;
use serde_json::{Value, json};
use sturnus::cloud::Cloud;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;

struct World {
    _cloud: Cloud,
    home: tempfile::TempDir,
    url: String,
    http: reqwest::Client,
    _stop: watch::Sender<bool>,
}

async fn world() -> World {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let home = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    std::fs::write(home.path().join("sturnus.toml"), "[password]\nmemory_kib = 64\npasses = 1\n").unwrap();
    let mut config = Config::for_home(home.path());
    config.set("listen", &address.to_string());
    config.set("password.memory_kib", "64");
    config.set("password.passes", "1");
    let cloud = Cloud::open(config).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(Cloud::serve(cloud.app.clone(), listener, None, stopped));
    World { _cloud: cloud, home, url: format!("http://{address}/v3"), http: reqwest::Client::new(), _stop: stop }
}

impl World {
    /// What a command prints, when it succeeds.
    async fn says(&self, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sturnus"));
        let config = self.home.path().join("sturnus.toml");
        command.arg("--config").arg(config).arg("identity").args(args).env_clear().env("STURNUS_HOME", self.home.path());
        let output = command.stdin(std::process::Stdio::null()).output().await.unwrap();
        assert!(output.status.success(), "identity {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn password(&self) -> String {
        let openrc = std::fs::read_to_string(self.home.path().join("openrc")).unwrap();
        let line = openrc.lines().find_map(|line| line.strip_prefix("export OS_PASSWORD=")).unwrap();
        line.trim_matches(['\'', '"']).to_string()
    }

    /// A token; none: the cloud does not take the password.
    async fn login(&self, password: &str) -> Option<String> {
        let user = json!({ "name": "admin", "domain": { "id": "default" }, "password": password });
        let scope = json!({ "project": { "name": "admin", "domain": { "id": "default" } } });
        let identity = json!({ "methods": ["password"], "password": { "user": user } });
        let body = json!({ "auth": { "identity": identity, "scope": scope } }).to_string();
        let answer = self.http.post(format!("{}/auth/tokens", self.url)).body(body).send().await.unwrap();
        answer.headers().get("x-subject-token").map(|token| token.to_str().unwrap().to_string())
    }

    async fn ask(&self, token: &str, method: reqwest::Method, path: &str, body: Value) -> (u16, Value) {
        let request = self.http.request(method, format!("{}{path}", self.url)).header("x-auth-token", token);
        let answer = request.body(body.to_string()).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_cloud_takes_what_is_done_at_the_console() {
    use reqwest::Method;
    let w = world().await;
    let first = w.password();
    let token = w.login(&first).await.unwrap();
    let credential = json!({ "credential": { "user_id": "u", "type": "t", "blob": "the secret" } });
    let (status, made) = w.ask(&token, Method::POST, "/credentials", credential).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/credentials/{}", made["credential"]["id"].as_str().unwrap());
    // Keys change beside it, more often than it looks, and what was sealed is opened all the same.
    for _ in 0..3 {
        assert!(w.says(&["rotate-credential-keys"]).await.contains("migrate-credentials"));
        assert_eq!(w.says(&["migrate-credentials"]).await, "secrets sealed anew: 1\n");
        assert_eq!(w.ask(&token, Method::GET, &path, Value::Null).await.1["credential"]["blob"], "the secret");
    }
    w.says(&["rotate-keys"]).await;
    w.says(&["purge"]).await;
    let second = w.login(&first).await.unwrap();
    assert_eq!(w.ask(&second, Method::GET, "/auth/projects", Value::Null).await.0, 200);
    // The new password is let in at once, the old one no more.
    w.says(&["reset-password"]).await;
    assert_ne!(w.password(), first);
    assert!(w.login(&first).await.is_none());
    let third = w.login(&w.password()).await.unwrap();
    assert_eq!(w.ask(&third, Method::GET, &path, Value::Null).await.0, 200);
}
