//! Tokens: how fast they are validated and made, and that a million of them leave nothing behind. Lists of projects and assignments.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::api::load;
use crate::cloud::Cloud;
use crate::http::Client;
use crate::report::{Report, Want, percentile};

/// Tokens of the measurement of memory.
const MANY: u64 = 1_000_000;

pub fn run(cloud: &mut Cloud, report: &mut Report) -> Result<()> {
    let tokens = cloud.path("identity", "/auth/tokens")?;
    let login = made_by_credential(cloud)?;
    validations(cloud, report, &tokens)?;
    let by_credential = |client: &mut Client| client.post(&tokens, &login)?.expect(201).map(|_| ());
    let (mut samples, cpu) = load(cloud, 1, Duration::from_secs(3), by_credential)?;
    report.add("token by application credential, 1 client, p50", percentile(&mut samples, 0.5), "ms", Want::Below(1.0), Some(cpu));
    passwords(cloud, report, &tokens, &login)?;
    lists(cloud, report)?;
    memory(cloud, report, &tokens, &login)
}

/// The body of a login with a new application credential of the administrator.
fn made_by_credential(cloud: &Cloud) -> Result<Value> {
    let mut client = cloud.client();
    let shown = client.call("GET", &cloud.path("identity", "/auth/tokens")?, &format!("X-Subject-Token: {}\r\n", cloud.token), None)?;
    let shown = shown.expect(200)?;
    let user = shown["token"]["user"]["id"].as_str().unwrap_or_default();
    let path = cloud.path("identity", &format!("/users/{user}/application_credentials"))?;
    let name = format!("bench-{}", std::process::id());
    let made = client.post(&path, &json!({ "application_credential": { "name": name } }))?.expect(201)?;
    let credential = &made["application_credential"];
    Ok(json!({ "auth": { "identity": { "methods": ["application_credential"],
        "application_credential": { "id": credential["id"], "secret": credential["secret"] } } } }))
}

fn validate<'a>(path: &'a str, subject: &'a str) -> impl Fn(&mut Client) -> Result<()> + Sync + 'a {
    move |client| match client.call("GET", path, subject, None)?.status {
        200 => Ok(()),
        status => bail!("a token was answered with {status}"),
    }
}

fn validations(cloud: &Cloud, report: &mut Report, path: &str) -> Result<()> {
    let subject = format!("X-Subject-Token: {}\r\n", cloud.token);
    let (mut samples, cpu) = load(cloud, 1, Duration::from_secs(3), validate(path, &subject))?;
    report.add("token validation, 1 client, p50", percentile(&mut samples, 0.5), "ms", Want::Below(0.15), Some(cpu));
    let (samples, cpu) = load(cloud, 16, Duration::from_secs(5), validate(path, &subject))?;
    report.add("token validation, 16 clients", samples.len() as f64 / 5.0, "/s", Want::Above(20_000.0), Some(cpu));
    Ok(())
}

/// A login is its hash and little else; what else is asked for meanwhile does not wait for it.
fn passwords(cloud: &Cloud, report: &mut Report, path: &str, by_credential: &Value) -> Result<()> {
    let body = cloud.login_body();
    let right = |client: &mut Client| client.post(path, &body)?.expect(201).map(|_| ());
    let (mut samples, cpu) = load(cloud, 1, Duration::from_secs(3), right)?;
    report.add("login with a password, 1 client, p50", percentile(&mut samples, 0.5), "ms", Want::Any, Some(cpu));
    // A credential that is not there costs one hash of a password and no token. Another one each time: attempts on one are counted.
    let number = AtomicU64::new(0);
    let bare = |client: &mut Client| {
        let mut wrong = by_credential.clone();
        wrong["auth"]["identity"]["application_credential"]["id"] = json!(number.fetch_add(1, Ordering::Relaxed).to_string());
        client.post(path, &wrong)?.expect(401).map(|_| ())
    };
    let (mut samples, cpu) = load(cloud, 1, Duration::from_secs(3), bare)?;
    report.add("the bare hash of a password, 1 client, p50", percentile(&mut samples, 0.5), "ms", Want::Any, Some(cpu));

    let subject = format!("X-Subject-Token: {}\r\n", cloud.token);
    let ended = AtomicBool::new(false);
    let samples: Result<Vec<Duration>> = std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = cloud.client();
                while !ended.load(Ordering::Relaxed) {
                    // only the load counts here
                    let _ = client.post(path, &body);
                }
            });
        }
        let samples = load(cloud, 1, Duration::from_secs(3), validate(path, &subject)).map(|(samples, _)| samples);
        ended.store(true, Ordering::Relaxed);
        samples
    });
    report.add("token validation, p99, while 8 clients log in", percentile(&mut samples?, 0.99), "ms", Want::Below(5.0), None);
    Ok(())
}

/// 1,000 projects, and 100 users with a role on each of 100 of them.
fn lists(cloud: &Cloud, report: &mut Report) -> Result<()> {
    let mut client = cloud.client();
    let mut many = |kind: &str, count: usize| -> Result<Vec<String>> {
        let path = cloud.path("identity", &format!("/{kind}s"))?;
        let one = |n| -> Result<String> {
            let made = client.post(&path, &json!({ kind: { "name": format!("bench-{n}") } }))?.expect(201)?;
            Ok(made[kind]["id"].as_str().unwrap_or_default().to_string())
        };
        (0..count).map(one).collect()
    };
    let (projects, users, roles) = (many("project", 1000)?, many("user", 100)?, many("role", 1)?);
    for project in &projects[..100] {
        for user in &users {
            let grant = cloud.path("identity", &format!("/projects/{project}/users/{user}/roles/{}", roles[0]))?;
            client.call("PUT", &grant, "", None)?.expect(204)?;
        }
    }
    for (name, rest, most) in [
        ("GET projects, 1,000 of them, p50", "/projects", 5.0),
        ("GET role_assignments?effective, 10,000 of them, p50", "/role_assignments?effective", 100.0),
    ] {
        let path = cloud.path("identity", rest)?;
        // Reading the body's JSON is the client's affair.
        let get = |client: &mut Client| match client.get(&path)?.status {
            200 => Ok(()),
            status => bail!("{path} was answered with {status}"),
        };
        let (mut samples, cpu) = load(cloud, 1, Duration::from_secs(3), get)?;
        report.add(name, percentile(&mut samples, 0.5), "ms", Want::Below(most), Some(cpu));
    }
    for (kind, made) in [("projects", projects), ("users", users), ("roles", roles)] {
        for id in made {
            client.delete(&cloud.path("identity", &format!("/{kind}/{id}"))?)?.expect(204)?;
        }
    }
    Ok(())
}

/// Each token is made and then used once, so that each is also remembered for a while.
fn memory(cloud: &Cloud, report: &mut Report, path: &str, login: &Value) -> Result<()> {
    let (made, bare) = (AtomicU64::new(0), format!("{path}?nocatalog"));
    let began = Instant::now();
    let until = |limit: u64| -> Result<()> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        let (mut client, mut user) = (cloud.client(), cloud.client());
                        while made.fetch_add(1, Ordering::Relaxed) < limit {
                            let answer = client.post(path, login)?;
                            let Some(token) = answer.token else { bail!("no token, but {}", answer.status) };
                            let subject = format!("X-Subject-Token: {token}\r\n");
                            validate(&bare, &subject)(&mut user)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked"))))
        })
    };
    // By then all that is bounded is full.
    until(MANY / 10)?;
    let before = cloud.anonymous()?;
    until(MANY)?;
    let (grown, seconds) = (cloud.anonymous()? - before, began.elapsed().as_secs_f64());
    report.add("a million tokens made and used, memory grown after the first tenth (anonymous)", grown, "MiB", Want::Below(2.0), None);
    report.add("a million tokens made and used, 4 clients", MANY as f64 / seconds, "/s", Want::Any, None);
    Ok(())
}
