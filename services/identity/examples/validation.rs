//! How long the validation of a token takes, alone and beside logins: `cargo run --release --example validation -p identity`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use http_api::access::AccessLog;
use http_api::{App, Authenticate, Peer};
use identity::{CatalogueEntry, Identity};

const PASSWORD: &str = "a secret";

#[tokio::main]
async fn main() -> base::Result<()> {
    let home = std::env::temp_dir().join(format!("identity-{}", base::id::hex()));
    let config = base::Config::for_home(&home);
    let store = store::Store::open(&format!("sqlite:{}/db/sturnus.db", home.display())).await?;
    store.migrate("events", events::MIGRATIONS).await?;
    store.migrate("task", task::MIGRATIONS).await?;
    store.migrate("identity", identity::MIGRATIONS).await?;
    let core = service::Core {
        config: Arc::new(config),
        store: store.clone(),
        policy: policy::Policy::new(policy::Enforcer::load(&[("identity", &[identity::RULES])], None)?),
        tasks: task::Engine::new(store, "bench"),
        hosts: service::HostLinks::new(rpc::session::Hosts::new().0),
        metrics: Default::default(),
    };
    let started = Instant::now();
    let identity = Identity::new(core).await?;
    identity.bootstrap(PASSWORD).await?;
    println!("first bootstrap {:>10.1} ms, one password hash included", started.elapsed().as_secs_f64() * 1e3);
    let started = Instant::now();
    identity.bootstrap(PASSWORD).await?;
    println!("second          {:>10.1} ms", started.elapsed().as_secs_f64() * 1e3);
    let kinds = ["identity", "image", "placement", "compute", "network", "fault", "volumev3", "object-store"];
    let entry = |kind: &str| CatalogueEntry {
        kind: kind.into(),
        name: kind.into(),
        description: String::new(),
        url_template: format!("http://127.0.0.1:5000/{kind}/{{project_id}}"),
    };
    identity.catalogue_set(kinds.iter().map(|kind| entry(kind)).collect()).await?;
    let authenticator: Arc<dyn Authenticate> = Arc::new(identity.clone());
    let mut app = App::new(authenticator, AccessLog::default(), 1 << 20, String::new(), Default::default());
    let service = identity.service()?;
    app.mount(service.mounts, service.routes);
    let app = Arc::new(app);

    let response = app.handle(login(), &Peer::default()).await;
    let token = response.headers().get("x-subject-token").and_then(|v| v.to_str().ok()).unwrap_or_default().to_string();
    measure("authenticate, known", 200_000, async || identity.authenticate(&token).await.is_ok()).await;
    measure("GET /v3/auth/tokens", 100_000, async || app.handle(validation(&token), &Peer::default()).await.status() == 200).await;
    let stop = Arc::new(AtomicBool::new(false));
    let logins: Vec<_> = (0..8).map(|_| tokio::spawn(log_in(app.clone(), stop.clone()))).collect();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let (app, token) = (app.clone(), token.clone());
        clients.push(tokio::spawn(async move {
            let mut times = Vec::new();
            let end = Instant::now() + Duration::from_secs(5);
            while Instant::now() < end {
                let started = Instant::now();
                app.handle(validation(&token), &Peer::default()).await;
                times.push(started.elapsed());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            times
        }));
    }
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.unwrap_or_default());
    }
    stop.store(true, Ordering::Relaxed);
    let mut count = 0;
    for login in logins {
        count += login.await.unwrap_or_default();
    }
    times.sort();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default().as_secs_f64() * 1e3;
    println!(
        "beside 8 clients logging in ({count} logins in 5 s): p50 {:.3} ms, p99 {:.3} ms, worst {:.3} ms",
        at(0.5),
        at(0.99),
        at(0.9999)
    );
    let _ = std::fs::remove_dir_all(home);
    Ok(())
}

async fn log_in(app: Arc<App>, stop: Arc<AtomicBool>) -> u32 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        count += u32::from(app.handle(login(), &Peer::default()).await.status() == 201);
    }
    count
}

async fn measure(name: &str, times: u32, f: impl AsyncFn() -> bool) {
    let started = Instant::now();
    let mut good = 0;
    for _ in 0..times {
        good += u32::from(f().await);
    }
    let each = started.elapsed().as_secs_f64() * 1e6 / f64::from(times);
    println!("{name:<24} {each:>8.2} us each, {good} of {times} good");
}

fn login() -> hyper::Request<Body> {
    let user = format!(r#"{{"name": "admin", "domain": {{"id": "default"}}, "password": "{PASSWORD}"}}"#);
    let scope = r#"{"project": {"name": "admin", "domain": {"id": "default"}}}"#;
    let body = format!(r#"{{"auth": {{"identity": {{"methods": ["password"], "password": {{"user": {user}}}}}, "scope": {scope}}}}}"#);
    let mut request = hyper::Request::new(Body::from(body));
    *request.method_mut() = axum::http::Method::POST;
    *request.uri_mut() = axum::http::Uri::from_static("/v3/auth/tokens");
    request
}

fn validation(token: &str) -> hyper::Request<Body> {
    let mut request = hyper::Request::new(Body::empty());
    *request.uri_mut() = axum::http::Uri::from_static("/identity/v3/auth/tokens");
    if let Ok(value) = axum::http::HeaderValue::from_str(token) {
        request.headers_mut().insert("x-auth-token", value.clone());
        request.headers_mut().insert("x-subject-token", value);
    }
    request
}
