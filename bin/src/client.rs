//! The client side of our own commands: a session with the API, by the same environment variables and files
//! as the stock clients.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use reqwest::Method;
use serde_json::{Value, json};

/// A token and where the services are.
pub struct Client {
    http: reqwest::Client,
    token: String,
    endpoints: HashMap<String, String>,
    debug: bool,
}

/// What a command's own options say of how to log in, over what the environment says.
pub struct Login {
    /// `OS_*` names and values.
    pub settings: Vec<(&'static str, String)>,
    pub timeout: Duration,
    /// Certificates are taken as they come.
    pub insecure: bool,
    /// Tells of every call.
    pub debug: bool,
    /// Where the service of this type is, whatever the catalogue says.
    pub endpoint: Option<(String, String)>,
}

impl Default for Login {
    fn default() -> Login {
        Login { settings: Vec::new(), timeout: Duration::from_secs(60), insecure: false, debug: false, endpoint: None }
    }
}

impl Client {
    /// Logs in with `OS_*` from the environment, else with `openrc` in `home`.
    pub async fn login(home: &Path) -> Result<Client> {
        Client::login_with(home, Login::default()).await
    }

    /// As [`Client::login`], with a command's own options. With a token and an endpoint there is nobody to be asked.
    pub async fn login_with(home: &Path, login: Login) -> Result<Client> {
        let token = login.settings.iter().find(|(name, _)| *name == "OS_AUTH_TOKEN").map(|(_, token)| token.clone());
        // Ours is the only cryptography linked in; installed twice is as good as once.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder().timeout(login.timeout).danger_accept_invalid_certs(login.insecure);
        if let (Some(token), Some(endpoint)) = (&token, &login.endpoint) {
            if let Ok(path) = std::env::var("OS_CACERT") {
                http = http.tls_certs_only(bundle(&path)?);
            }
            return Ok(Client { http: http.build()?, token: token.clone(), endpoints: [endpoint.clone()].into(), debug: login.debug });
        }
        let mut settings = Settings::read(home, &login)?;
        settings.file.extend(login.settings.iter().map(|(name, value)| (name.to_string(), value.clone())));
        if let Some(path) = settings.get("OS_CACERT").filter(|path| !path.is_empty()) {
            http = http.tls_certs_only(bundle(path)?);
        }
        let http = http.build()?;
        let domain = |id: &str, name: &str| match settings.get(id) {
            Some(id) => json!({"id": id}),
            None => json!({"name": settings.get(name).unwrap_or("Default")}),
        };
        let identity = match &token {
            Some(token) => json!({"methods": ["token"], "token": {"id": token}}),
            None => json!({"methods": ["password"], "password": {"user": {
                "name": settings.need("OS_USERNAME")?, "password": settings.need("OS_PASSWORD")?,
                "domain": domain("OS_USER_DOMAIN_ID", "OS_USER_DOMAIN_NAME"),
            }}}),
        };
        let project = match settings.get("OS_PROJECT_ID") {
            Some(id) => json!({"id": id}),
            None => json!({"name": settings.need("OS_PROJECT_NAME")?, "domain": domain("OS_PROJECT_DOMAIN_ID", "OS_PROJECT_DOMAIN_NAME")}),
        };
        let body = json!({"auth": {"identity": identity, "scope": {"project": project}}});
        let url = settings.need("OS_AUTH_URL")?.trim_end_matches('/').to_string();
        let url = if url.ends_with("/v3") { url } else { format!("{url}/v3") };
        let answer = http
            .post(format!("{url}/auth/tokens"))
            .json(&body)
            .send()
            .await
            .with_context(|| format!("no cloud answers at {url}; is it up? (sturnus up)"))?;
        if !answer.status().is_success() {
            bail!("login refused: {}", message(answer).await);
        }
        let token = answer
            .headers()
            .get("x-subject-token")
            .and_then(|v| v.to_str().ok())
            .ok_or_else(|| anyhow!("the answer has no token"))?
            .to_string();
        let body: Value = answer.json().await?;
        let catalogue = body["token"]["catalog"].as_array().cloned().unwrap_or_default();
        // Older clients say publicURL.
        let interface = settings.get("OS_ENDPOINT_TYPE").map_or("public", |kind| kind.trim_end_matches("URL"));
        let region = settings.get("OS_REGION_NAME").filter(|region| !region.is_empty());
        let wanted = |e: &&Value| e["interface"] == interface && region.is_none_or(|region| e["region"] == region);
        let url = |service: &Value| service["endpoints"].as_array()?.iter().find(wanted)?["url"].as_str().map(str::to_string);
        let mut endpoints: HashMap<_, _> = catalogue.iter().filter_map(|s| Some((s["type"].as_str()?.to_string(), url(s)?))).collect();
        endpoints.extend(login.endpoint);
        Ok(Client { http, token, endpoints, debug: login.debug })
    }

    /// Calls `path` of the service of type `kind`; an error status becomes the fault's own text.
    pub async fn call(&self, method: Method, kind: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut request = self.request(method, kind, path)?;
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        if self.debug {
            eprintln!("{}: {} {}", answer.url(), answer.status(), body.map(Value::to_string).unwrap_or_default());
        }
        answered(answer).await
    }

    pub async fn get(&self, kind: &str, path: &str) -> Result<Value> {
        self.call(Method::GET, kind, path, None).await
    }

    pub async fn post(&self, kind: &str, path: &str, body: &Value) -> Result<Value> {
        self.call(Method::POST, kind, path, Some(body)).await
    }

    /// Streams a file as the body of a PUT.
    pub async fn upload(&self, kind: &str, path: &str, file: &Path) -> Result<()> {
        let size = std::fs::metadata(file).with_context(|| file.display().to_string())?.len();
        let stream = tokio_util::io::ReaderStream::new(tokio::fs::File::open(file).await?);
        let request =
            self.request(Method::PUT, kind, path)?.header("content-type", "application/octet-stream").header("content-length", size);
        let answer = request.timeout(Duration::from_secs(3600)).body(reqwest::Body::wrap_stream(stream)).send().await?;
        if !answer.status().is_success() {
            bail!("{}", message(answer).await);
        }
        Ok(())
    }

    /// The public endpoint of a service.
    pub fn endpoint(&self, kind: &str) -> Result<&str> {
        let endpoint = self.endpoints.get(kind).ok_or_else(|| anyhow!("this cloud has no {kind} service"))?;
        Ok(endpoint.trim_end_matches('/'))
    }

    fn request(&self, method: Method, kind: &str, path: &str) -> Result<reqwest::RequestBuilder> {
        Ok(self.http.request(method, format!("{}{path}", self.endpoint(kind)?)).header("x-auth-token", &self.token))
    }
}

/// What an answer holds; an error status becomes the fault's own text.
pub async fn answered(answer: reqwest::Response) -> Result<Value> {
    if !answer.status().is_success() {
        bail!("{}", message(answer).await);
    }
    let text = answer.text().await?;
    if text.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&text)?) }
}

/// The words of a fault, whatever the service's form.
async fn message(answer: reqwest::Response) -> String {
    let status = answer.status();
    let text = answer.text().await.unwrap_or_default();
    let found = serde_json::from_str::<Value>(&text).ok().and_then(|body| fault_text(&body));
    match found {
        Some(message) => format!("{message} (HTTP {})", status.as_u16()),
        None => format!("HTTP {status}: {text}"),
    }
}

fn fault_text(body: &Value) -> Option<String> {
    if let Some(inner) = body["error_message"].as_str() {
        let parsed: Value = serde_json::from_str(inner).unwrap_or(Value::Null);
        return Some(parsed["faultstring"].as_str().unwrap_or(inner).to_string());
    }
    let fault = body.as_object()?.values().next()?;
    let fault = fault.as_array().and_then(|list| list.first()).unwrap_or(fault);
    ["message", "detail"].iter().find_map(|key| fault[*key].as_str()).map(str::to_string)
}

fn bundle(path: &str) -> Result<Vec<reqwest::Certificate>> {
    let pem = std::fs::read(path).with_context(|| format!("OS_CACERT: {path}"))?;
    reqwest::Certificate::from_pem_bundle(&pem).with_context(|| format!("OS_CACERT: {path}"))
}

/// `OS_*` settings.
struct Settings {
    file: HashMap<String, String>,
}

impl Settings {
    fn read(home: &Path, login: &Login) -> Result<Settings> {
        // The environment must be complete to be used: half of it mixed with the file would log in somewhere else.
        if std::env::var("OS_AUTH_URL").is_ok() || login.settings.iter().any(|(name, _)| *name == "OS_AUTH_URL") {
            return Ok(Settings { file: std::env::vars().filter(|(k, _)| k.starts_with("OS_")).collect() });
        }
        let path = home.join("openrc");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("no OS_AUTH_URL in the environment, and {} cannot be read", path.display()))?;
        let pairs = text.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        Ok(Settings { file: pairs.map(|(k, v)| (k.to_string(), v.to_string())).collect() })
    }
    fn get(&self, name: &str) -> Option<&str> {
        self.file.get(name).map(String::as_str)
    }
    fn need(&self, name: &str) -> Result<&str> {
        self.get(name).ok_or_else(|| anyhow!("{name} is not set"))
    }
}

/// A value as it may stand in a URL.
pub fn encoded(value: &str) -> String {
    percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).to_string()
}
